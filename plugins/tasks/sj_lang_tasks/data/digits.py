"""The handwritten digits inside scikit-learn."""

import numpy as np
from sklearn.datasets import load_digits

from sj_lang_tasks.data.idx import Labelled


class Digits:
    """1,797 images of 8 x 8 pixels with 17 levels of grey, from 43 writers; UCI's test set."""

    def images(self) -> dict[str, Labelled]:
        digits = load_digits()
        return {"all": (digits.images.astype(np.uint8), digits.target.astype(np.int64))}

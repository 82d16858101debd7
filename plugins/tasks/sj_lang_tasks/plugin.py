"""What this distribution offers. Names and texts only: nothing heavy is imported here."""

from sj_lang.hookspecs import Register, hookimpl

PSN = "Fang et al. 2023, arXiv 2304.12760"


@hookimpl
def sj_lang_register(register: Register) -> None:
    register.source(
        "digits",
        "sj_lang_tasks.data.digits:Digits",
        summary="1,797 handwritten digits of 8 x 8 pixels, inside scikit-learn",
    )
    register.task(
        "image_classification",
        "sj_lang_tasks.tasks.images:ImageClassification",
        summary="classify images that are read column by column or pixel by pixel: accuracy",
    )
    register.task(
        "forecasting",
        "sj_lang_tasks.tasks.forecasting:Forecasting",
        summary="predict the next steps of all series of a CSV: R2, RSE",
    )
    register.model(
        "series_spikformer",
        "sj_lang_tasks.models.series_spikformer:SeriesSpikformerConfig",
        summary="Spikformer over series, neurons along their steps, attention without softmax, with its ANN twin",
        cite="Zhou et al. 2022, arXiv 2209.15425; Lv et al. 2024, arXiv 2402.01533",
    )
    register.model(
        "sequence_cnn",
        "sj_lang_tasks.models.sequence_cnn:SequenceCNNConfig",
        summary="stages of [conv1d, batch norm, neuron] over a sequence of columns, with its ANN twin",
        cite=PSN,
    )
    register.recipes("sj_lang_tasks:recipes")

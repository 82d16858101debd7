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
    register.source(
        "mackey_glass",
        "sj_lang_tasks.data.mackey_glass:MackeyGlass",
        summary="4,000 steps of three chaotic series, computed",
        cite="Mackey and Glass 1977",
    )
    register.task(
        "image_classification",
        "sj_lang_tasks.tasks.images:ImageClassification",
        summary="classify images that are read column by column or pixel by pixel: accuracy",
    )
    register.task(
        "event_classification",
        "sj_lang_tasks.tasks.events:EventClassification",
        summary="classify frames of events, of images that a camera passes or of recordings: accuracy",
    )
    register.task(
        "forecasting",
        "sj_lang_tasks.tasks.forecasting:Forecasting",
        summary="predict the next steps of all series of a CSV: R2, RSE",
    )
    register.task(
        "control",
        "sj_lang_tasks.tasks.control:Control",
        summary="act in an environment of gymnasium, by TD3: mean return",
        cite="Fujimoto et al. 2018, arXiv 1802.09477",
    )
    register.model(
        "population_policy",
        "sj_lang_tasks.models.population_policy:PopulationPolicyConfig",
        summary="a policy whose neurons are in populations, with its ANN twin",
        cite="Tang et al. 2020, arXiv 2010.09635",
    )
    register.model(
        "event_cnn",
        "sj_lang_tasks.models.event_cnn:EventCNNConfig",
        summary="stages of [conv2d, batch norm, neuron] over frames of events, with its ANN twin",
        cite="Deng et al. 2022, arXiv 2202.11946",
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

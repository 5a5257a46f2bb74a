"""Settings of calibration inputs; those of the priors that draw them are in `calibration.priors.settings`."""

from __future__ import annotations

from dataclasses import dataclass

from spa_compiler.settings import setting


@dataclass(frozen=True)
class CalibrationSettings:
    """Settings of `inputs`, `sample_budget`, `pixel_scale`, `bn_matching` and `language_model`."""

    # how many inputs: sample_budget
    picture_inputs: int = setting(
        384,
        "inputs that are wanted where one gives many positions",
        unit="inputs",
        source="top-1",
        chosen_on=("ResNet-20",),
        rows=("E24",),
    )
    table_inputs: int = setting(
        2048, "inputs that are wanted where one gives one position", unit="inputs", rows=("E84",)
    )
    least_inputs: int = setting(24, "inputs where memory or time is short", unit="inputs", rows=("E84",))
    pool_factor: int = setting(
        8,
        "inputs that are drawn for each one that a pass starts with",
        unit="inputs",
        source="top-1",
        chosen_on=("ResNet-20 folded", "ResNet-56", "LMFRNet", "smmk47_vit"),
        rows=("E18",),
    )
    stream_inputs: int = setting(
        64,
        "inputs that tell which directions a residual stream uses",
        unit="inputs",
        source="top-1",
        chosen_on=("digits_vit",),
        rows=("E112",),
    )
    least_stream_inputs: int = setting(4, "the same where the model is large", unit="inputs", rows=("E112",))
    stream_work: float = setting(
        5e10, "work of the dense model on these inputs, at most", unit="multiply-accumulates", rows=("E112",)
    )
    chosen_one_of: int = setting(
        3,
        "of so many drawn inputs one is kept where the graph has become narrow enough for more",
        unit="inputs",
        source="top-1",
        chosen_on=("MobileNetV2",),
        confirmed_on=("SqueezeNet",),
        rows=("E26",),
    )

    # which inputs, and what is done to values on them: inputs
    trusted_pictures: int = setting(
        128,
        "given pictures from which the errors of deep groups are believed",
        unit="pictures",
        source="top-1",
        chosen_on=("MobileNetV2",),
        confirmed_on=("SqueezeNet", "ResNet-20", "LMFRNet"),
        rows=("E16",),
    )
    confidence_range: tuple[float, float] = setting(
        (0.5, 0.95),
        "confidence of the dense model in an input that is neither a guess nor an artefact",
        unit="probability",
        source="top-1",
        chosen_on=("ResNet-20 folded",),
        rows=("E69",),
    )
    pull: float = setting(
        0.3,
        "pull on the log deviations of folded convolutions that feed a ReLU",
        unit="share of the way to their mean",
        source="top-1",
        chosen_on=("ResNet-20, -32, -56", "MobileNetV2", "ResNet-20 folded"),
        confirmed_on=("ResNet-32", "ResNet-56 folded"),
        rows=("E21", "E23", "E70"),
    )
    sweeps: int = setting(
        8,
        "times that token ids are drawn again from what a language model says",
        unit="sweeps",
        source="perplexity",
        chosen_on=("GPT-2 (small)",),
        confirmed_on=("Llama", "Mixtral"),
        rows=("E48", "E50"),
    )
    text_lengths: tuple[int, ...] = setting(
        (64, 32, 16),
        "ids in a row where any number may be, the first that the model takes",
        unit="ids",
        source="perplexity",
        chosen_on=("GPT-2, Llama (small)", "GPT-2 (small)"),
        rows=("E51", "E52"),
    )

    # kinds by shape: inputs
    spectrum_ratio: float = setting(
        1.5, "a grey picture is a spectrum whose longer side is more of the shorter one", unit="times", rows=("E85",)
    )
    most_coefficients: int = setting(20, "a spectrum of up to so many bands is cepstra", unit="bands", rows=("E85",))
    largest_strokes: int = setting(32, "a grey picture of up to this side is handwriting", unit="pixels", rows=("E85",))
    least_waveform: int = setting(4000, "a row of so many numbers is a waveform", unit="numbers", rows=("E85",))
    waveform_kernel: int = setting(
        64,
        "a shorter row is one where kernels of so many taps read it",
        unit="taps",
        source="pitch",
        chosen_on=("crepe_tiny",),
        rows=("E108",),
    )

    # the scale of pictures: pixel_scale
    usual_response: tuple[float, float] = setting(
        (0.1, 1.5),
        "deviation behind the first contraction (and its BatchNormalization) of an input at its own scale",
        unit="median deviation",
        source="top-1, responses",
        chosen_on=("the 20 picture models of results.md", "nine CIFAR-10 models"),
        rows=("E19", "E75"),
    )
    best_response: float = setting(
        0.7,
        "the customary one of them",
        unit="median deviation",
        source="top-1, responses",
        chosen_on=("the 20 picture models of results.md", "nine CIFAR-10 models"),
        rows=("E19", "E75"),
    )
    close_ratio: float = setting(
        1.25,
        "a likelier scale is kept when its response is this near to the best",
        unit="times",
        source="top-1",
        chosen_on=("the 20 picture models of results.md",),
        rows=("E19",),
    )
    silent_share: float = setting(
        0.15,
        "a wider scale is tried where inputs and predictions share less information",
        unit="of log(classes)",
        source="top-1",
        chosen_on=("the 20 picture models of results.md",),
        rows=("E19",),
    )
    loud_factor: float = setting(
        4.0,
        "the wider scale is taken when it makes that more",
        unit="times",
        source="top-1",
        chosen_on=("the 20 picture models of results.md",),
        rows=("E19",),
    )
    loud_response: float = setting(
        4.0,
        "no wider scale is tried where the response is larger",
        unit="median deviation",
        source="top-1",
        chosen_on=("the 20 picture models of results.md",),
        rows=("E19",),
    )
    certain_probability: float = setting(
        0.99,
        "a prediction above it is certain",
        unit="probability",
        source="top-1",
        chosen_on=("the 20 picture models of results.md",),
        rows=("E19",),
    )
    certain_share: float = setting(
        0.4,
        "share of certain predictions from which a scale is too wide",
        unit="of the inputs",
        source="top-1",
        chosen_on=("the 20 picture models of results.md",),
        rows=("E19",),
    )

    # pictures that BatchNormalization has seen: bn_matching
    descent_steps: int = setting(
        8,
        "steps in which pictures are matched to stored statistics",
        unit="steps",
        source="top-1",
        chosen_on=("ResNet-20 bn",),
        confirmed_on=("ResNet-56 bn",),
        rows=("E3",),
    )
    descent_rate: float = setting(
        0.04,
        "their size",
        unit="deviations of the pictures",
        source="loss of matching",
        chosen_on=("ResNet-20 bn",),
        rows=("E8",),
    )
    mean_decay: float = setting(
        0.5,
        "decay of Adam's mean: few steps have no use for a long one",
        unit="a step",
        source="loss of matching",
        chosen_on=("ResNet-20 bn",),
        rows=("E8",),
    )
    square_decay: float = setting(
        0.9,
        "decay of Adam's mean square",
        unit="a step",
        source="loss of matching",
        chosen_on=("ResNet-20 bn",),
        rows=("E8",),
    )
    roughness_weight: float = setting(
        0.02, "weight of the total variation beside the distance", unit="times", rows=("E82",)
    )
    matched_share: float = setting(
        0.75,
        "share of the pictures that are matched",
        unit="of the inputs",
        source="top-1",
        chosen_on=("ResNet-20 bn",),
        confirmed_on=("ResNet-56 bn",),
        rows=("E3", "E4"),
    )
    least_matched: int = setting(
        96,
        "how many must be matched",
        unit="pictures",
        source="top-1",
        confirmed_on=("ResNet-56 bn",),
        rows=("E4",),
    )
    matched_one_of: int = setting(
        4, "of inputs whose number is given one of so many must be", unit="inputs", rows=("E83",)
    )
    pictures_per_set: int = setting(
        48,
        "pictures whose statistics are matched together",
        unit="pictures",
        source="top-1",
        chosen_on=("ResNet-20 bn",),
        rows=("E73",),
    )
    least_per_set: int = setting(8, "how many have statistics at all", unit="pictures", rows=("E83",))
    heard_share: float = setting(
        0.3,
        "inputs whose shape does not say so are taken for sound from this share of words on",
        unit="of what predictions tell",
        rows=("E101",),
    )
    close_share: float = setting(
        0.97,
        "a more usual front end is kept when words have nearly as large a share",
        unit="of the best",
        rows=("E101",),
    )
    least_information: float = setting(
        0.1, "predictions that tell less of inputs tell nothing of words", unit="of log(classes)", rows=("E101",)
    )
    photograph_loss: float = setting(
        0.12,
        "the same for photographs, which are near to what was seen in training from the start",
        unit="of the loss",
        source="top-1",
        chosen_on=("EfficientNet-Lite0",),
        rows=("E100",),
    )
    photograph_side: int = setting(
        64,
        "shorter side from which crops of photographs are drawn in place of scenes",
        unit="pixels",
        source="sizes at which either was better",
        rows=("E99",),
    )
    matched_loss: float = setting(
        0.05,
        "distance up to which statistics are matched",
        unit="squared stored deviations",
        source="loss of matching",
        chosen_on=("ResNet-20 bn",),
        rows=("E74",),
    )
    first_steps: int = setting(
        3,
        "steps that are taken where it is hopeless",
        unit="steps",
        source="loss of matching",
        chosen_on=("ResNet-20 bn",),
        rows=("E74",),
    )
    hopeless_loss: float = setting(
        0.15,
        "distance after them from which it is",
        unit="squared stored deviations",
        source="loss of matching",
        chosen_on=("ResNet-20 bn",),
        rows=("E74",),
    )


CALIBRATION = CalibrationSettings()

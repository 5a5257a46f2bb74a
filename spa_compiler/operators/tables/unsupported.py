"""Deliberate freezes: operators through which nothing may change, with the reason that reports give.

An operator that is in no table is frozen too, but by accident: a test keeps the tables complete.
"""

from __future__ import annotations

from spa_compiler.operators.rule import freeze_rule
from spa_compiler.operators.site import Row, Rule
from spa_compiler.operators.tables.compute import DRAWN_BY_POSITION
from spa_compiler.operators.traits import UNCOUNTED

REASONS: dict[str, str] = {
    "its positions depend on data": """Compress Unique MaxUnpool Multinomial StringSplit
        TfIdfVectorizer RegexFullMatch""",
    "its size is an operand": "Range EyeLike HannWindow HammingWindow BlackmanWindow MelWeightMatrix AffineGrid",
    DRAWN_BY_POSITION: """RandomNormal RandomNormalLike RandomUniform RandomUniformLike
        Bernoulli""",
    "a loss over named classes": "NegativeLogLikelihoodLoss SoftmaxCrossEntropyLoss",
    "sequences and optionals have no axes": """ConcatFromSequence SequenceAt SequenceConstruct SequenceEmpty
        SequenceErase SequenceInsert SequenceLength SequenceMap SplitToSequence Optional OptionalGetElement
        OptionalHasElement""",
    "no numbers, or from outside": "ImageDecoder StringConcat StringNormalizer Constant",
    "one factor per channel is written in an attribute": "ImageScaler",
    "given up by ONNX": "ATen GivenTensorFill DynamicSlice",
}
ML = """ArrayFeatureExtractor Binarizer CastMap CategoryMapper DictVectorizer FeatureVectorizer Imputer LabelEncoder
LinearClassifier LinearRegressor Normalizer OneHotEncoder SVMClassifier SVMRegressor Scaler TreeEnsemble
TreeEnsembleClassifier TreeEnsembleRegressor"""
TRAINING = "Adagrad Adam Gradient Momentum"

CHOICE = Row(freeze_rule("its positions depend on data"), decides="choice")
RULES: dict[str, Rule] = {
    **{op: freeze_rule(why) for why, ops in REASONS.items() for op in ops.split()},
    **dict.fromkeys(("NonZero", "NonMaxSuppression"), CHOICE),
    "LinearAttention": Row(freeze_rule("its state is indexed by pairs of channels"), macs=UNCOUNTED),
    "GRUUnit": Row(freeze_rule("given up by ONNX"), macs=UNCOUNTED),
}
CLASSICAL = freeze_rule("classical models number their features")
ML_RULES: dict[str, Rule] = {**dict.fromkeys(ML.split(), CLASSICAL), "ZipMap": Row(CLASSICAL, reorders=True)}
TRAINING_RULES: dict[str, Rule] = dict.fromkeys(TRAINING.split(), freeze_rule("training is not compiled"))
PREVIEW_RULES: dict[str, Rule] = {"FlexAttention": Row(freeze_rule("its body is a graph of its own"), macs=UNCOUNTED)}

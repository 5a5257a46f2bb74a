"""Make the bank of spoken words: `python -m tools.banks.speech [--check]`, with espeak-ng 1.51 and flite 2.2 installed.

Words of an own list, spoken by eight voices of espeak-ng (https://github.com/espeak-ng/espeak-ng) and four of flite
(http://cmuflite.org, voices of Carnegie Mellon University). What a synthesiser says is free of its licence. Writes
`spa_compiler/calibration/priors/banks/speech.bank`, of which `DIGEST` is the SHA-256 of what is compressed in it.
`--check` writes nothing and compares.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import lzma
import subprocess
import tempfile
import wave
from pathlib import Path
from typing import Any

import numpy as np
import scipy.signal
from numpy.typing import NDArray

from spa_compiler.calibration.priors.sound_bank import (
    COARSENESS,
    EDGES,
    LOUDNESS_UNIT,
    RATE,
    SPEECH_FILE,
    STEP,
    transform,
)

Array = NDArray[Any]
TARGET = Path(__file__).parents[2] / "spa_compiler" / "calibration" / "priors" / "banks" / SPEECH_FILE
DIGEST = "1d9e48937f47f41f7fdf130eaabfd757c88c01332d96e7f1d7834bd0ee802e89"
"""SHA-256 of the bank before compression."""
ESPEAK = "en-us en-gb-x-rp en-gb-scotland+m2 en-us+f2 en-gb+f3 en-us+m3 en-us+f5 de+m4".split()
"""Voices of espeak-ng, of men and women; one that speaks English with another language's sounds."""
FLITE = "slt rms awb kal16".split()
"""Voices of flite: a woman and three men."""
COMMANDS = """yes no up down left right on off stop go zero one two three four five six seven eight nine ten backward
forward follow learn visual bed bird cat dog happy house marvin sheila tree wow start open close help light music
volume play next back call hello computer""".split()
"""Words of commands and digits: each is spoken by half of the voices."""
WORDS = """about above across after again air all always and animal answer apple around ask baby bad ball bank bath
beach bear before begin below best better big black blood blue board boat body book box boy bread break bridge bring
brother brown build bus busy butter button buy camera candle car catch chair change cheese child church city clean
clear clock cloud coat coffee cold corner country cousin cover cow cream cross cry cup dance dark daughter day deep
doctor door dream dress drink drive dry early earth east easy egg empty engine evening every eye face fair fall family
far farm fast father feather finger fire first fish floor flower fly food foot forest fork found fresh friday friend
frog fruit garden gate gentle girl give glass gold good grass great green ground hair half hammer hand hard hat heart
heavy high hill hold home horse hot hour ice island jacket january job jump june keep key kind king kitchen knife lake
lamp language large laugh leaf leg lemon letter life lion listen little long love lunch machine make man many march
market meat message middle milk minute mirror moment monday money month moon morning mother mountain mouse mouth name
narrow needle never new night noise north nose number ocean office often oil old orange other outside over page paint
paper park party pencil people phone picture pig place plane plant plate pocket point poor potato power press pretty
price purple push queen question quick quiet rabbit radio rain read ready red remember rest rice rich ring river road
rock roof room rose rough round sad salt sand saturday say school sea season second see sell send shadow shape sharp
sheep ship shirt shoe shop short shoulder show silver simple sing sister sit size skin sky sleep slow small smile smoke
snow soap soft some song soon sound soup south speak spoon spring square stand star station stone storm story street
strong sugar summer sun sunday sure sweet swim table tail take talk tall tea teach tell thank their thick thin thing
think thumb thunder ticket tiger time tired today together tomorrow tooth town toy train travel true turn twenty uncle
under useful valley very village visit voice wait walk wall warm wash water wave way weather week west wheel white wide
wife wind window winter wire with woman wonder wood word work world worry write yellow yesterday young""".split()
"""Other common words: each is spoken by two voices."""
FLOOR = 10 ** (-50 / 20)
"""Loudness below that of the loudest band of a recording at which a band is silent."""
QUIET = 10 ** (-40 / 20)
"""Samples below this part of the peak are silence before and behind a word."""
MARGIN = 400
"""Samples that are left of that silence."""
MOST = 14 * STEP
"""Samples of the longest recording that is taken, but for its last step: 0.9 seconds."""


def main() -> None:
    """Make the bank, or compare it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with DIGEST, write nothing")
    check = parser.parse_args().check
    data = make_bank()
    digest = hashlib.sha256(data).hexdigest()
    if not check:
        TARGET.write_bytes(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME))
        print(f"{TARGET}: {TARGET.stat().st_size} bytes, {digest}")
    elif digest != DIGEST:
        raise SystemExit(f"the bank differs: {digest}")


def make_bank() -> bytes:
    """The bank as `sound_bank.decode_bank` reads it."""
    entries, louds, coefficients = [], [], []
    for k, (word, voice) in enumerate(list_recordings()):
        loud, rounded = round_spectrum(transform(trim(speak(word, voice, k))))
        entries.append((word, voice, len(loud)))
        louds.append(loud)
        coefficients.append(rounded)
    changes = np.diff(np.concatenate(louds), axis=0, prepend=0).astype(np.int8)
    line = json.dumps(entries, separators=(",", ":")).encode() + b"\n"
    return line + changes.T.tobytes() + np.concatenate(coefficients).astype(np.int8).T.tobytes()


def list_recordings() -> list[tuple[str, str]]:
    """Words and the voices that speak them."""
    voices = [*ESPEAK, *FLITE]
    made = [(w, voices[(k + 2 * i) % len(voices)]) for k, w in enumerate(COMMANDS) for i in range(len(voices) // 2)]
    made += [(w, voices[(5 * k + i) % len(voices)]) for k, w in enumerate(WORDS) for i in (0, 8)]
    return made


def speak(word: str, voice: str, k: int) -> Array:
    """A word at 16 kHz; pitch and speed follow from its place `k` in the bank."""
    if voice in FLITE:
        return _speak_flite(word, voice, 0.8 + 0.05 * (k * 7 % 11))
    pitch, speed = 25 + k * 17 % 55, 120 + k * 29 % 90
    command = ["espeak-ng", "-v", voice, "-p", str(pitch), "-s", str(speed), "--stdout", word]
    return _read_wave(subprocess.run(command, capture_output=True, check=True).stdout)


def _speak_flite(word: str, voice: str, stretch: float) -> Array:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "word.wav"
        said = ["--setf", f"duration_stretch={stretch:.2f}", "-t", word, "-o", str(file)]
        subprocess.run(["flite", "-voice", voice, *said], check=True)
        return _read_wave(file.read_bytes())


def _read_wave(data: bytes) -> Array:
    with wave.open(io.BytesIO(data)) as file:
        rate, x = file.getframerate(), np.frombuffer(file.readframes(1 << 24), np.int16) / 32768
    return x if rate == RATE else np.asarray(scipy.signal.resample_poly(x, RATE // 50, rate // 50))


def trim(x: Array) -> Array:
    """A recording without the silence around it, in whole steps, a step of silence before and behind."""
    loud = np.flatnonzero(np.abs(x) > QUIET * np.abs(x).max())
    x = x[max(0, loud[0] - MARGIN) : loud[-1] + MARGIN][:MOST]
    return np.pad(x / np.abs(x).max(), (STEP, STEP + -len(x) % STEP))


def round_spectrum(spectrum: Array) -> tuple[Array, Array]:
    """Loudness of bands [frames, bands], 0 where silent, and coefficients as whole numbers of their roundings."""
    power = np.add.reduceat(spectrum**2, EDGES[:-1], axis=1) / np.diff(EDGES)
    loudness = np.sqrt(power)
    least = FLOOR * loudness.max()
    loud = np.where(loudness > least, np.rint(LOUDNESS_UNIT * np.log2(np.maximum(loudness, least) / least)) + 1, 0)
    scale = np.repeat(2.0 ** (loud / LOUDNESS_UNIT) * COARSENESS, np.diff(EDGES), axis=1)
    unit = least / 2 ** (1 / LOUDNESS_UNIT)
    rounded = np.clip(np.rint(spectrum / (scale * unit)), -100, 100)
    return loud, rounded * np.repeat(loud > 0, np.diff(EDGES), axis=1)


if __name__ == "__main__":
    main()

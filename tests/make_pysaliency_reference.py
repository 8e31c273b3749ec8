"""Makes tests/data/pysaliency_reference.json: what pysaliency, an independent implementation of saliency metrics, gives
for a few made cases.

pysaliency needs packages that this project does not, so it runs in an environment of its own:

    python -m venv pysal && pysal/bin/pip install pysaliency==0.2.22 torch
    pysal/bin/python tests/make_pysaliency_reference.py
"""

import json
from importlib.metadata import version
from pathlib import Path

import numpy as np

CASES = ("smooth", "eight_bit", "ties", "constant", "zeros_inside", "duplicates", "one_fixation")
HEIGHT, WIDTH = 24, 32


def make_case(name):
    """Prediction (24, 32), density (24, 32), baseline (24, 32), and rows and columns of fixations and of others'.

    All by formula, so that the test and this script need share nothing but this function.
    """
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float64)
    prediction = np.exp(-((x - 20) ** 2 + (y - 9) ** 2) / 60) + 0.05 * np.sin(0.9 * x + 1.7 * y) + 0.06
    density = np.exp(-((x - 17) ** 2 + (y - 11) ** 2) / 40)
    baseline = np.exp(-((x - 15.5) ** 2 / 64 + (y - 11.5) ** 2 / 36) / 2)
    k = np.arange(12)
    rows, columns = (9 + 5 * np.sin(2.1 * k)).astype(int), (19 + 8 * np.cos(1.3 * k)).astype(int)
    j = np.arange(40)
    other_rows, other_columns = (12 + 9 * np.sin(1.9 * j)).astype(int), (16 + 12 * np.cos(0.7 * j)).astype(int)
    if name == "eight_bit":
        prediction = np.round(255 * prediction / prediction.max()).astype(np.uint8)
    elif name == "ties":
        prediction = np.floor(4 * prediction)
    elif name == "constant":
        prediction = np.full_like(prediction, 0.1)
    elif name == "zeros_inside":
        prediction = np.where(prediction > 0.2, prediction, 0)
    elif name == "duplicates":
        rows, columns = np.concatenate([rows, rows[:5], rows[:2]]), np.concatenate([columns, columns[:5], columns[:2]])
    elif name == "one_fixation":
        rows, columns = rows[:1], columns[:1]
    return prediction, density, baseline, (rows, columns), (other_rows, other_columns)


def reference(name):
    """pysaliency's numbers for one case."""
    import pysaliency
    from pysaliency import metrics
    from pysaliency.roc import general_roc

    prediction, density, baseline, (rows, columns), (other_rows, other_columns) = make_case(name)
    fixated = np.zeros(prediction.shape, bool)
    fixated[rows, columns] = True

    class Fixed(pysaliency.Model):
        """A model that gives one density whatever the image."""

        def __init__(self, values):
            super().__init__()
            values = np.asarray(values, np.float64)
            self.values = np.log(values / values.sum() + np.finfo(np.float64).eps)

        def _log_density(self, stimulus):
            return self.values

    stimuli = pysaliency.Stimuli([np.zeros((HEIGHT, WIDTH, 3), np.uint8)])
    fixations = pysaliency.Fixations.create_without_history(x=columns + 0.5, y=rows + 0.5, n=np.zeros(len(rows), int))
    return {
        "nss": metrics.NSS(prediction, columns, rows).mean(),
        "auc_judd": general_roc(prediction[rows, columns], prediction[~fixated], judd=1)[0],
        "auc_shuffled": general_roc(prediction[rows, columns], prediction[other_rows, other_columns])[0],
        "cc": metrics.CC(prediction, density),
        # the benchmark's code takes each map's minimum off; pysaliency leaves that to its caller
        "sim": metrics.SIM(prediction - prediction.min(), density - density.min()),
        "kld": metrics.MIT_KLDiv(prediction, density),
        "information_gain": Fixed(prediction).information_gain(stimuli, fixations, Fixed(baseline)),
    }


def main():
    np.trapz = np.trapezoid  # pysaliency 0.2.22 calls it by the name it had before NumPy 2.4
    values = {name: {k: float(v) for k, v in reference(name).items()} for name in CASES}
    path = Path(__file__).parent / "training" / "data" / "pysaliency_reference.json"
    path.write_text(json.dumps({"pysaliency": version("pysaliency"), "values": values}, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Train a small classifier on real handwritten digits, and log metrics and the model with the stock `wandb`.

The data ships inside scikit-learn (1,797 images of 8x8 pixels from the UCI repository), so nothing is downloaded.
"""

import pickle
from pathlib import Path

import numpy
import wandb
from sklearn.datasets import load_digits
from sklearn.linear_model import SGDClassifier
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

DEFAULTS = {"epochs": 10, "alpha": 1e-3, "seed": 7}


def main() -> None:
    """Train with `wandb.config`; values that the queue or the launch gave come before the defaults."""
    with wandb.init(config=DEFAULTS) as run:
        config = run.config
        digits = load_digits()
        train_x, test_x, train_y, test_y = train_test_split(
            digits.data, digits.target, test_size=0.25, random_state=config.seed, stratify=digits.target
        )
        scaler = StandardScaler().fit(train_x)
        train_x, test_x = scaler.transform(train_x), scaler.transform(test_x)
        model = SGDClassifier(loss="log_loss", alpha=config.alpha, random_state=config.seed)
        for epoch in range(config.epochs):
            model.partial_fit(train_x, train_y, classes=numpy.arange(10))
            accuracy = float(model.score(test_x, test_y))
            loss = float(log_loss(test_y, model.predict_proba(test_x)))
            print(f"epoch {epoch + 1}/{config.epochs}: accuracy {accuracy:.4f}, loss {loss:.4f}")
            run.log({"epoch": epoch, "accuracy": accuracy, "loss": loss})
        run.summary["best_accuracy"] = accuracy
        log_model(run, model, accuracy)


def log_model(run: wandb.Run, model: SGDClassifier, accuracy: float) -> None:
    """Log the trained model as an artifact of the run."""
    path = Path("model.pkl")
    path.write_bytes(pickle.dumps(model))
    artifact = wandb.Artifact("digits-classifier", type="model", metadata={"accuracy": accuracy})
    artifact.add_file(str(path))
    run.log_artifact(artifact).wait()


if __name__ == "__main__":
    main()

"""Accuracy of the small CNN: ours and an equal PyTorch model on the same batches, in one run.

    python -m benchmarks.classifier_peer --flagfile=voc_simple_cnn.cfg --data_dir=VOC2007 --epochs=5

Both take the same batches, learning rates and AdamW, and each has the initial weights of its own
library. Needs the extra `parity`.
"""

from benchmarks.torchvision_peer import refuse_unequal
from fcos_tf.cli import command_line
from fcos_tf.config import Config
from fcos_tf.options import options_for, sections_of
from fcos_tf.tensorflow_words import load_tensorflow


class Peer:
    """`layers.simple_cnn` with a linear layer on the mean of its last map, in PyTorch.

    Args:
        model: ours, for its preprocessing and number of classes.
        config: the options of AdamW.
    """

    def __init__(self, model, config: Config):
        import torch
        from torch import nn

        torch.manual_seed(config.seed)

        def conv(channels, filters, stride=2, norm=False):
            layers = [nn.Conv2d(channels, filters, 3, stride, 1, bias=not norm)]
            return [*layers, *([nn.BatchNorm2d(filters)] if norm else []), nn.ReLU()]

        body = [*conv(3, 16), *conv(16, 32), *conv(32, 64, norm=True), *conv(64, 64, 1, norm=True)]
        self.body = nn.Sequential(*body, *conv(64, 128), *conv(128, 128))
        self.logits = nn.Linear(128, model.num_classes)
        self.torch, self.model, self.clip_norm = torch, model, config.clip_norm
        parts = nn.ModuleList([self.body, self.logits])
        self.parameters = list(parts.parameters())
        groups = [
            {"params": [p for p in self.parameters if p.ndim > 1]},
            {"params": [p for p in self.parameters if p.ndim == 1], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, weight_decay=config.weight_decay)

    def _logits(self, images, image_sizes):
        torch = self.torch
        x = torch.from_numpy(self.model.preprocess(images, image_sizes).numpy())
        x = self.body(x.permute(0, 3, 1, 2))  # [B, 128, h, w]
        rows, columns = (
            (torch.tensor(image_sizes[:, i : i + 1] / 32) - torch.arange(x.shape[i + 2])).clip(0, 1)
            for i in (0, 1)
        )
        shares = (rows[:, :, None] * columns[:, None])[:, None]  # valid part, [B, 1, h, w]
        return self.logits((x * shares).sum((2, 3)) / shares.sum((2, 3)))

    def train_step(self, images, targets, learning_rate: float) -> None:
        """One step of AdamW."""
        from fcos_tf.models.classifier import image_labels

        torch = self.torch
        positive, known = (
            torch.from_numpy(x.numpy()) for x in image_labels(targets, self.model.num_classes)
        )
        self.body.train()
        losses = torch.nn.functional.binary_cross_entropy_with_logits(
            self._logits(images, targets["image_sizes"].numpy()),
            positive.float(),
            reduction="none",
        )
        self.optimizer.zero_grad()
        losses[known].mean().backward()
        if self.clip_norm:
            torch.nn.utils.clip_grad_norm_(self.parameters, self.clip_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.step()

    def classify(self, images, image_sizes) -> dict:
        """As the result of `compile_classify`."""
        self.body.eval()
        with self.torch.inference_mode():
            logits = self._logits(images, image_sizes.numpy())
            return {"probabilities": self.torch.sigmoid(logits).numpy()}


def main(argv: list[str] | None = None) -> None:
    """Trains both and prints the metrics of each."""
    command_line.run(_compare, __doc__, argv, uses=sections_of(Config))


def _compare(config: Config, options, given) -> None:
    equal = ("accumulation_steps", "ema_momentum", "backbone_lr_factor")
    refuse_unequal(config, equal, backbone="simple_cnn", optimizer="adamw")
    load_tensorflow()
    import keras

    from fcos_tf import build
    from fcos_tf.evaluation import run_classifier
    from fcos_tf.training.loop import count_steps

    keras.utils.set_random_seed(config.seed)
    train_data = build.load_train_data(config)
    val_data = build.load_val_data(config, train_data.class_names)
    total = count_steps(train_data.num_images, **options_for(config, count_steps))
    model = build.make_model(config, train_data.class_names, dataset=train_data)
    if model.label_mode != "multi":
        raise ValueError(f"--label_mode: expected multi, as the peer has, got {model.label_mode}")
    build.compile_model(config, model, total)
    peer = Peer(model, config)
    rates = model.optimizer.inner_optimizer if config.max_bad_steps else model.optimizer
    for step, (images, targets) in enumerate(train_data.take(total)):
        peer.train_step(images, targets, float(rates.learning_rate))
        model.train_on_batch(images, targets)
        if (step + 1) % 50 == 0:
            print(f"step {step + 1}/{total}", flush=True)
    print(f"{total} steps of {config.batch_size} images, evaluated on {val_data.num_images}")
    for name, classify in (("fcos_tf", None), ("PyTorch", peer.classify)):
        metrics = run_classifier(model, val_data, classify=classify).scores().metrics
        print(name, " ".join(f"{key} {value:.4f}" for key, value in metrics.items()))


if __name__ == "__main__":
    main()

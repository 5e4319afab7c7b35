"""Which image comes where: the order of a data set, as a function of the step alone.

A stream that starts at step k gives exactly what the uninterrupted one gives from step k on, and
hosts that share the work give together exactly the batches of one that does it alone.

n images, B images of a global batch, b = B / number of hosts of them on this one.
"""

from dataclasses import dataclass

import numpy as np
import tensorflow as tf

# An index i <= FILLER stands for a row without an image, among images like number FILLER - i.
FILLER = -1


@dataclass(frozen=True, eq=False)
class Order:
    """What the order depends on.

    Args:
        num_images: n.
        batch_size: B, over all hosts.
        training: Shuffled, and without the images that do not fill a last batch.
        repeat: Passes without end.
        seed: In [0, 2^31), of the shuffling.
        start_step: So many batches are skipped, at no cost.
        num_hosts: Each host reads its part of every batch.
        host: Which part, from 0.
        portrait: bool [n]; if given, a batch holds images of one orientation only.
    """

    num_images: int
    batch_size: int
    training: bool
    repeat: bool
    seed: int
    start_step: int = 0
    num_hosts: int = 1
    host: int = 0
    portrait: np.ndarray | None = None

    @property
    def host_batch_size(self) -> int:
        """Images of a batch on this host, b."""
        return self.batch_size // self.num_hosts

    def groups(self) -> list[np.ndarray]:
        """Indices of the images that may share a batch: all, or landscape and portrait."""
        if self.portrait is None:
            return [np.arange(self.num_images)]
        groups = [np.flatnonzero(~self.portrait), np.flatnonzero(self.portrait)]
        return [group for group in groups if len(group)]

    def num_steps(self) -> int | None:
        """Batches of a pass from `start_step` on; None: without end.

        Raises:
            ValueError: There are not enough images for one batch, or for `start_step`.
        """
        if self.repeat:
            return None
        steps = sum(self._steps_of(group) for group in self.groups())
        if steps == 0:
            raise ValueError(
                f"batch_size={self.batch_size} is more than the {self.num_images} images of the "
                f"split, so a training pass has no whole batch; use a smaller one, or repeat=True"
            )
        if self.start_step >= steps:
            raise ValueError(f"start_step={self.start_step}, but a pass has {steps} steps")
        return steps - self.start_step

    def streams(self) -> list[tf.data.Dataset]:
        """The images of this host, one element each: int64 [3] (image index, pass, position).

        An index from FILLER down stands for a row without image: see there.

        Each stream is to be batched by itself, one after the other; there are two only in
        evaluation by orientation, where the last batch of each may be smaller. Pass and position
        say which random numbers an example gets.
        """
        if not self.training and not self.repeat:
            return self._in_order()
        steps = tf.data.Dataset.counter(self.start_step, dtype=tf.int64)
        if self.repeat:
            return [steps.map(lambda step: self._shuffled(step, None)).unbatch()]
        steps = steps.take(self.num_steps())
        # A new number for the pass each time the data set is iterated, so that its order is new.
        passes = tf.data.Dataset.random(self.seed, rerandomize_each_iteration=True).take(1)
        return [
            passes.flat_map(
                lambda number: steps.map(lambda step: self._shuffled(step, number % 2**31))
            ).unbatch()
        ]

    def _steps_of(self, group: np.ndarray) -> int:
        whole = len(group) // self.batch_size
        return whole if self.training else -(-len(group) // self.batch_size)

    def _in_order(self) -> list[tf.data.Dataset]:
        """The images as they come, group after group."""
        streams = []
        skip = self.start_step
        for group in self.groups():
            count = len(group)
            if self.num_hosts > 1:  # all hosts have equally many batches, filled up
                count = self._steps_of(group) * self.batch_size
            position = np.arange(count)
            filler = np.full(count - len(group), FILLER - group[0])
            index = np.concatenate([group, filler])
            step, row = np.divmod(position, self.batch_size)
            mine = (step >= skip) & (row // self.host_batch_size == self.host)
            skip = max(0, skip - self._steps_of(group))
            elements = np.stack([index, np.zeros_like(index), position], axis=1)[mine]  # [m, 3]
            if len(elements):
                streams.append(tf.data.Dataset.from_tensor_slices(elements.astype(np.int64)))
        return streams

    def _shuffled(self, step: tf.Tensor, pass_number: tf.Tensor | None) -> tf.Tensor:
        """The batch of a step, [b, 3]; `pass_number` None: counted from 0, without end."""
        groups = self.groups()
        if len(groups) == 1:
            return self._part(groups[0], 0, step, pass_number)
        # Of every k batches, floor(k * share) are portraits: both orientations are spread evenly,
        # and their passes go at the same pace.
        sizes = [len(group) if self.repeat else self._steps_of(group) for group in groups]
        before = step * sizes[1] // sum(sizes)
        after = (step + 1) * sizes[1] // sum(sizes)
        return tf.cond(
            after > before,
            lambda: self._part(groups[1], 1, before, pass_number),
            lambda: self._part(groups[0], 0, step - before, pass_number),
        )

    def _part(self, group, number: int, step: tf.Tensor, pass_number) -> tf.Tensor:
        """This host's part of batch `step` of a group."""
        rows = step * self.batch_size + self.host * self.host_batch_size
        rows += tf.range(self.host_batch_size, dtype=tf.int64)  # [b]
        position = rows % len(group)
        passes = rows // len(group) if pass_number is None else tf.fill(tf.shape(rows), pass_number)
        if self.portrait is not None:
            passes = 2 * passes + number
        index = position
        if self.training:
            # As tf.random.experimental.index_shuffle, which does not take a seed for each row.
            seed = tf.fill(tf.shape(passes), tf.constant(self.seed, tf.int64))
            index = tf.raw_ops.RandomIndexShuffle(
                index=position,
                seed=tf.stack([seed, passes, tf.zeros_like(passes)], axis=1),
                max_index=tf.constant(len(group) - 1, tf.int64),
            )
        return tf.stack([tf.gather(tf.constant(group, tf.int64), index), passes, position], axis=1)


def check_counts(**numbers: tuple[int | None, int]) -> None:
    """Raises ValueError for what is no whole number, or under the least: name=(value, least)."""
    for name, (value, least) in numbers.items():
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            raise ValueError(f"{name}: expected a whole number, got {value!r}")
        if value < least:
            raise ValueError(f"{name}: expected at least {least}, got {value}")


def check_hosts(batch_size: int, num_hosts: int, host: int) -> None:
    """Raises ValueError for a host that is none of them, or a batch that they cannot share."""
    if num_hosts < 1 or not 0 <= host < num_hosts or batch_size % num_hosts:
        raise ValueError(
            f"expected 0 <= host < num_hosts and a batch_size that num_hosts divides, got "
            f"host={host}, num_hosts={num_hosts}, batch_size={batch_size}"
        )

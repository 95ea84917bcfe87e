"""Squared error, for targets that are numbers: regression, and diffusion as the regression of noise or velocity."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from windtunnel.errors import InputError


@dataclass(frozen=True, kw_only=True)
class SquaredError:
    """Squared difference of outputs and targets. For training, and as `Judge(loss=SquaredError())`."""

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Outputs and targets (examples, ...), each as many numbers an example, to losses (examples, numbers).

        Raises InputError where they are not as many.
        """
        said, wanted = (numbers.reshape(len(numbers), -1) for numbers in (outputs, targets))
        if said.shape != wanted.shape:
            raise InputError(
                f"SquaredError compares {said.shape[1]} outputs an example with {wanted.shape[1]} targets; give as "
                f"many targets as the network has outputs: for a stock network, shape().classes of the data plan."
            )
        return (said - wanted.to(said.dtype)).square()

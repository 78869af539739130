"""Where a run's numbers and pictures go: metrics.jsonl, TensorBoard, and W&B if asked."""

import json
import pathlib
from typing import Any

import numpy as np
import tensorboardX

from stjax.train.errors import RunError
from stjax.viz import frames


class Writer:
    """Writes scalars by step. Lines of steps after `step` (of a run that was killed) are removed.

    Args:
        workdir: the run directory.
        step: the step that the run continues from.
        config: kept as config.json, and by W&B.
        wandb: project name; empty for none.
    """

    def __init__(self, workdir: pathlib.Path, step: int, config: dict[str, Any], wandb: str = ""):
        self.workdir = pathlib.Path(workdir)
        (self.workdir / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        path = self.workdir / "metrics.jsonl"
        _keep_until(path, step)
        self._lines = path.open("a")
        self._board = tensorboardX.SummaryWriter(
            str(self.workdir / "tensorboard"), purge_step=step + 1
        )
        self._wandb = _wandb_run(wandb, self.workdir, config) if wandb else None

    def scalars(self, step: int, split: str, values: dict[str, Any]) -> None:
        """One line; arrays (an error by frame, say) go to metrics.jsonl alone."""
        plain = {name: np.asarray(value).tolist() for name, value in values.items()}
        self._lines.write(json.dumps({"step": step, "split": split, **plain}) + "\n")
        self._lines.flush()
        single = {name: v for name, v in plain.items() if not isinstance(v, list)}
        for name, value in single.items():
            self._board.add_scalar(f"{split}/{name}", value, step)
        if self._wandb is not None:
            self._wandb.log({f"{split}/{name}": v for name, v in single.items()}, step=step)

    def pictures(self, step: int, pictures: dict[str, np.ndarray]) -> list[pathlib.Path]:
        """Images (h, w, 3) as PNG and videos (t, h, w, 3) as GIF, under media/."""
        folder = self.workdir / "media"
        folder.mkdir(exist_ok=True)
        paths = []
        for name, picture in pictures.items():
            suffix, save = ("png", frames.save_png) if picture.ndim == 3 else ("gif", frames.save_gif)
            paths.append(folder / f"{name}-{step:07d}.{suffix}")
            save(paths[-1], picture)
        return paths

    def close(self) -> None:
        self._lines.close()
        self._board.close()
        if self._wandb is not None:
            self._wandb.finish()


def _keep_until(path: pathlib.Path, step: int) -> None:
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError):
            continue  # the last line of a killed run may be cut short
    path.write_text("".join(kept))


def _wandb_run(project: str, workdir: pathlib.Path, config: dict[str, Any]):
    try:
        import wandb
    except ImportError as error:
        raise RunError("run.wandb needs the extra: pip install 'stjax[tracking]'") from error
    return wandb.init(project=project, dir=workdir, config=config, resume="allow", id=workdir.name)

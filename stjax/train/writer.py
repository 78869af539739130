"""Where a run's numbers and pictures go: metrics.jsonl, TensorBoard, and W&B if asked."""

import contextlib
import json
import pathlib
import time
from typing import Any

import numpy as np
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto import event_pb2

from stjax.train import hosts
from stjax.train.errors import RunError
from stjax.viz import frames


class Writer:
    """Writes scalars by step. Lines of steps after `step` (of a run that was killed) are removed.

    Of many processes the first one writes; the others' writers do nothing.

    Args:
        workdir: the run directory.
        step: the step that the run continues from.
        config: kept as config.json, and by W&B.
        wandb: project name; empty for none.
    """

    def __init__(self, workdir: pathlib.Path, step: int, config: dict[str, Any], wandb: str = ""):
        self.workdir = pathlib.Path(workdir)
        if not hosts.first():
            return
        (self.workdir / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        path = self.workdir / "metrics.jsonl"
        _keep_until(path, step)
        self._lines = path.open("a")
        self._board = _Board(self.workdir / "tensorboard", step)
        self._wandb = _wandb_run(wandb, self.workdir, config) if wandb else None

    def scalars(self, step: int, split: str, values: dict[str, Any]) -> None:
        """One line; arrays (an error by frame, say) go to metrics.jsonl alone."""
        if not hosts.first():
            return
        plain = {name: np.asarray(value).tolist() for name, value in values.items()}
        single = {name: v for name, v in plain.items() if not isinstance(v, list)}
        with _disk_errors(self.workdir):
            self._lines.write(json.dumps({"step": step, "split": split, **plain}) + "\n")
            self._lines.flush()
            self._board.scalars(step, split, single)
        if self._wandb is not None:
            self._wandb.log({f"{split}/{name}": v for name, v in single.items()}, step=step)

    def pictures(self, step: int, pictures: dict[str, np.ndarray]) -> list[pathlib.Path]:
        """Images (h, w, 3) as PNG and videos (t, h, w, 3) as GIF, under media/."""
        if not hosts.first():
            return []
        folder = self.workdir / "media"
        folder.mkdir(exist_ok=True)
        paths = []
        for name, picture in pictures.items():
            suffix = "png" if picture.ndim == 3 else "gif"
            paths.append(folder / f"{name}-{step:07d}.{suffix}")
            with _disk_errors(self.workdir):
                frames.save(paths[-1], picture)
        return paths

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *_) -> None:
        if not hosts.first():
            return
        self._lines.close()
        self._board.close()
        if self._wandb is not None:
            self._wandb.finish()


class _Board:
    """TensorBoard's event file, written at once; tensorboardX's own writer is a thread that
    prints its errors at exit.
    """

    def __init__(self, folder: pathlib.Path, step: int):
        folder.mkdir(exist_ok=True)
        self._events = EventsWriter(str(folder / "events"))
        # TensorBoard hides what an earlier, killed process wrote about later steps.
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._write(step + 1, session_log=start)

    def scalars(self, step: int, split: str, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._write(step, summary=summary.scalar(f"{split}/{name}", value))
        self._events.flush()

    def _write(self, step: int, **what: Any) -> None:
        self._events.write_event(event_pb2.Event(wall_time=time.time(), step=step, **what))

    def close(self) -> None:
        with contextlib.suppress(OSError):  # a full disk has been reported where it mattered
            self._events.close()


@contextlib.contextmanager
def _disk_errors(workdir: pathlib.Path):
    try:
        yield
    except OSError as error:
        raise RunError(f"cannot write to {workdir}: {error}; its checkpoints are intact") from error


def _keep_until(path: pathlib.Path, step: int) -> None:
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except ValueError:
            break  # the last line of a killed run may be cut short
    path.write_text("".join(kept))


def _wandb_run(project: str, workdir: pathlib.Path, config: dict[str, Any]):
    try:
        import wandb
    except ImportError as error:
        raise RunError("run.wandb needs the extra: pip install 'stjax[tracking]'") from error
    return wandb.init(project=project, dir=workdir, config=config, resume="allow", id=workdir.name)

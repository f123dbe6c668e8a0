"""The frozen teacher and the knowledge that it gives."""

from mfkd.teacher.frozen import FrozenTeacher
from mfkd.teacher.source import LiveSource

__all__ = ["FrozenTeacher", "LiveSource"]

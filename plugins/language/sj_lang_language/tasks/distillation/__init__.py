"""Distillation: the task, the teacher that it loads, and the loss that it minimises."""

from sj_lang_language.tasks.distillation.task import Distillation

__all__ = ["Distillation"]

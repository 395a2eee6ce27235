"""The doctor measures data, labels, views, teacher, outputs and thresholds, and says what is wrong and what helps."""

from verglas.doctor._base import Check, DataCheck, Finding, RunCheck, skipped

__all__ = ["Check", "DataCheck", "Finding", "RunCheck", "skipped"]

"""Looks at what happened again: questions, timelines, sealed reruns, other policies, evidence. It reads, and never acts."""

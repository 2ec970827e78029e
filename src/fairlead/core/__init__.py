"""The vocabulary: schedule, prediction, condition, denoiser protocol, registry. Imports none of ours."""

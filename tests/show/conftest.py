from logs import log_of

__all__ = ["log_of"]

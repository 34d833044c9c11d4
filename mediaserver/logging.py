"""Logging: structlog, for people on a console or as JSON lines, on standard error."""

from __future__ import annotations

import logging
import sys

import structlog
import structlog.tracebacks

from .config import LogConfig


def configure(config: LogConfig) -> None:
    """Set up structlog for the process, and the standard library's logging to come out alike. Call once."""
    level = getattr(logging, config.level.upper())
    json = config.format == "json"
    renderer: structlog.types.Processor = (
        structlog.processors.JSONRenderer(ensure_ascii=False)
        if json
        else structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    )
    shared: list[structlog.types.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso" if json else "%H:%M:%S.%f", utc=json),
        structlog.processors.StackInfoRenderer(),
    ]
    if json:
        # Without local variables, here and above: they may hold what a caller has said.
        transformer = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
        shared.append(structlog.processors.ExceptionRenderer(transformer))
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        # Not print: that writes the end of the line by itself, and another thread may come between.
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.ExtraAdder(), *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for library in ("httpx", "httpcore"):  # they log the URL of each request, which may hold a secret
        logging.getLogger(library).setLevel(logging.WARNING)

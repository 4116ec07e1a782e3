//! docs/reference/cli.md, metrics.md and options.md, written from the code.

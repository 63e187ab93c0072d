"""The subcommands of ``rescale``: arguments, messages, exit code; nothing else."""

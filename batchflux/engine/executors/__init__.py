"""Where a job's steps are performed: in this process's event loop, or elsewhere."""

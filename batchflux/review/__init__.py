"""The review: a server of the page that follows a run and takes verdicts, for one person on one machine."""

"""The review: a server of the page that follows a run and takes verdicts, for one person on one machine.

listen         where it listens, under which names, and how it stops; also beside a run, for `run --watch`
server         the routes, and how each answers
guard          who is let in: token, Host, Origin, and the headers that every answer carries
decisions      a verdict's JSON → a decision, or why not; results.csv brought up to it
events         the stream of changes
files          the routes of pictures; opens pictures of the folder, and nothing else
ledger_access  all that reads or writes the ledger, in one thread
changes        what of the ledger changed since when
"""

"""The review: a server of the page that follows a run and takes verdicts, for one person on one machine.

server      the routes, and what each answers
pictures    the routes of pictures and their small copies
answers     JSON, and a sentence for what failed
guard       who is let in: token, Host, Origin, and the headers that every answer carries
bodies      a verdict's JSON → a decision, or why not
board       what of the ledger changed since when
store       all that touches the folder, in one thread
events      the stream of changes
files       opens pictures of the folder, and nothing else
refresh     brings results.csv up to the verdicts
site        where it listens, under which names, and how it stops
beside      the same in a thread of its own, for `run --watch`
"""

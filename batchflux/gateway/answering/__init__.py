"""What clients are answered, in the form that each takes: pictures, streams of events, refusals."""

"""Requests as clients of OpenAI's API write them → an Order and the Form of its answer; nothing is sent here."""

"""The runs of a folder, looked at afterwards: what each made, cost and waited for, and when."""

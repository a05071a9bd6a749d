//! Black-box tests: transcripts, real clients, faults

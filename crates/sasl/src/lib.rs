//! SASL server mechanisms (SCRAM, PLAIN) as pure state machines

//! What this crate and `stream` implement, as data for the README's table.

/// XEP number, version, and the test that shows it.
pub const XEPS: &[(u16, &str, &str)] = &[
    (77, "2.4", "edge::core::tests::registration"),
    (198, "1.6.3", "edge::core::tests::stream_management"),
    (352, "1.0.0", "edge::core::tests::stream_management::client_state_keeps_its_place_among_stanzas"),
    (440, "1.0.0", "edge::core::tests::login::features_of_each_level"),
    (478, "0.2.0", "edge::core::tests::login::features_of_each_level"),
];

/// RFC number and the test that shows it.
pub const RFCS: &[(u16, &str)] = &[(6120, "edge::core::tests"), (7590, "edge::core::tests::login::features_of_each_level")];

//! Who is at the other end, and who we are: TLS from PEM files, and SASL logins.
//!
//! | file | what it is |
//! |---|---|
//! | [`tls`] | rustls configurations from the checked types of [`crate::config`] |
//! | [`sasl`] | the client's side of PLAIN and SCRAM, without the frames around it |

pub mod sasl;
pub mod tls;

//! Who is at the other end, and who we are: TLS from PEM files, and SASL logins.
//!
//! | file | what it is |
//! |---|---|
//! | [`tls`] | rustls configurations from the checked types of [`kferry_config`] |
//! | [`sasl`] | the client's side of PLAIN, SCRAM and OAUTHBEARER, without the frames around it |
//! | [`users`] | the broker's side of PLAIN and SCRAM: who may log in at the proxy |

pub mod sasl;
pub mod tls;
pub mod users;

//! What the source's security settings become on the target.
//!
//! | file | what it is |
//! |---|---|
//! | [`acls`] | ACLs |
//! | [`users`] | SCRAM users, which have to be created anew |
//! | [`quotas`] | quotas of users and clients |

pub mod acls;
pub mod quotas;
pub mod users;

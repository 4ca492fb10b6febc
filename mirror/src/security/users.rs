//! The SCRAM users of the source that the target lacks.
//!
//! Kafka gives out names, mechanisms and iterations, never a password nor its salted form (KIP-554): so a user cannot be copied, only created
//! anew by somebody who knows the password.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use kferry_wire::admin::users::{MIN_ITERATIONS, SaltedPassword, ScramAlteration, ScramCredential, ScramMechanism};
use kferry_wire::client::{Client, ClientError};

/// The SCRAM users of a cluster, with the credentials of each.
pub type Users = BTreeMap<String, Vec<ScramCredential>>;

/// A user of the source with one of its mechanisms, and what becomes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserPlan {
    /// The user's name: `alice`, of the principal `User:alice`.
    pub user: String,
    /// One of the mechanisms that the user has on the source.
    pub mechanism: ScramMechanism,
    /// The iterations of the credential on the source, at least Kafka's lowest number.
    pub iterations: NonZeroU32,
    /// Whether the target has the user with that mechanism, with whatever password.
    pub is_there: bool,
}

/// Decides what becomes of each user of the source.
pub fn plan(source: &Users, target: &Users) -> Vec<UserPlan> {
    let credentials = source.iter().flat_map(|(user, credentials)| credentials.iter().map(move |credential| (user, credential)));
    let plan = credentials.map(|(user, &ScramCredential { mechanism, iterations })| UserPlan {
        user: user.clone(),
        mechanism,
        iterations: u32::try_from(iterations).ok().and_then(NonZeroU32::new).unwrap_or(MIN_ITERATIONS).max(MIN_ITERATIONS),
        is_there: target.get(user).into_iter().flatten().any(|there| there.mechanism == mechanism),
    });
    plan.collect()
}

/// Asks both clusters for their users, and decides.
///
/// # Errors
/// [`ClientError`], with the ACL that kferry itself needs.
pub async fn look(source: &Client, target: &Client) -> Result<Vec<UserPlan>, ClientError> {
    let (source, target) = tokio::try_join!(source.describe_user_scram_credentials(), target.describe_user_scram_credentials())?;
    Ok(plan(&source, &target))
}

/// Creates users on the target, each with a password. Gives those that were refused, each with the error.
pub async fn apply(target: &Client, users: &[(&UserPlan, &str)]) -> Vec<(UserPlan, ClientError)> {
    let mut refused = Vec::new();
    // A request may have one change of a user.
    for mechanism in [ScramMechanism::Sha256, ScramMechanism::Sha512] {
        let of_mechanism: BTreeMap<&str, (&UserPlan, &str)> = users
            .iter()
            .filter(|(plan, _)| plan.mechanism == mechanism)
            .map(|&(plan, password)| (plan.user.as_str(), (plan, password)))
            .collect();
        let alterations = of_mechanism.iter().map(|(user, (plan, password))| {
            let password = SaltedPassword::random(mechanism, password, plan.iterations);
            ((*user).to_owned(), ScramAlteration::Upsert(password))
        });
        let answers = target.alter_user_scram_credentials(&alterations.collect()).await.into_iter();
        refused.extend(answers.filter_map(|(user, answer)| Some((of_mechanism.get(user.as_str())?.0.clone(), answer.err()?))));
    }
    refused
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mechanism_is_one_thing_and_iterations_are_never_fewer() {
        let credential = |mechanism, iterations| ScramCredential { mechanism, iterations };
        let (a, b) = (ScramMechanism::Sha256, ScramMechanism::Sha512);
        let source = Users::from([
            ("alice".to_owned(), vec![credential(a, 8_192), credential(b, 100)]),
            ("bob".to_owned(), vec![credential(b, 4_096)]),
            ("carol".to_owned(), Vec::new()),
        ]);
        let target = Users::from([("alice".to_owned(), vec![credential(b, 4_096)]), ("eve".to_owned(), vec![credential(a, 4_096)])]);
        let found = plan(&source, &target);
        let found: Vec<_> = found.iter().map(|plan| (plan.user.as_str(), plan.mechanism, plan.iterations.get(), plan.is_there)).collect();
        assert_eq!(found, [("alice", a, 8_192, false), ("alice", b, 4_096, true), ("bob", b, 4_096, false)]);
    }
}

//! ACLs.
//!
//! # References
//! - KIP-11, KIP-290 (prefixed patterns), `org.apache.kafka.common.acl`, `org.apache.kafka.common.resource`

use std::fmt;

use kafka_protocol::messages::create_acls_request::AclCreation;
use kafka_protocol::messages::{ApiKey, CreateAclsRequest, DescribeAclsRequest};
use kafka_protocol::protocol::VersionRange;
use kferry_config::Cluster;

use super::text;
use crate::client::{Answers, Client, ClientError, Node, Nodes, Resend, Subject};

const DESCRIBE_ACLS: VersionRange = VersionRange { min: 1, max: 3 };
const CREATE_ACLS: VersionRange = VersionRange { min: 1, max: 3 };

/// The command line of Kafka's own tool that allows `principal` something on a cluster. `resource` is an option of the tool (`topic`, `group`,
/// `cluster`) and `names` are the resources'; the cluster has none.
pub fn allow_command(
    cluster: &Cluster,
    principal: &str,
    operations: &[impl fmt::Display],
    resource: &str,
    names: &[impl fmt::Display],
) -> String {
    let server = cluster.bootstrap_servers.first().map(ToString::to_string).unwrap_or_default();
    let mut command = format!(
        "kafka-acls.sh --bootstrap-server {server} --command-config admin.properties --add --allow-principal '{}'",
        principal.replace('\'', r"'\''")
    );
    for operation in operations {
        command = format!("{command} --operation {operation}");
    }
    if names.is_empty() {
        command = format!("{command} --{resource}");
    }
    for name in names {
        command = format!("{command} --{resource} {name}");
    }
    command
}

/// Any, in a filter.
const ANY: i8 = 1;

/// Kafka's codes and names for something, and what a newer broker may add.
macro_rules! codes {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $code:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)*
            /// Something newer, by Kafka's number.
            Other(i8),
        }

        impl $name {
            /// Kafka's number.
            pub fn code(self) -> i8 {
                match self {
                    $(Self::$variant => $code,)*
                    Self::Other(code) => code,
                }
            }
        }

        impl From<i8> for $name {
            fn from(code: i8) -> Self {
                match code {
                    $($code => Self::$variant,)*
                    other => Self::Other(other),
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(self, f)
            }
        }
    };
}

codes! {
    /// What an ACL is about.
    ResourceType {
        /// Topics.
        Topic = 2,
        /// Consumer groups.
        Group = 3,
        /// The cluster, whose name is `kafka-cluster`.
        Cluster = 4,
        /// Transactional ids.
        TransactionalId = 5,
        /// Delegation tokens.
        DelegationToken = 6,
        /// Users, whose tokens others may make (KIP-373).
        User = 7,
    }
}

codes! {
    /// How an ACL names its resources.
    PatternType {
        /// By one name; `*` is all of them.
        Literal = 3,
        /// By what the name begins with.
        Prefixed = 4,
    }
}

codes! {
    /// What an ACL allows or denies.
    Operation {
        /// All of them.
        All = 2,
        /// Fetch, and commit offsets.
        Read = 3,
        /// Produce.
        Write = 4,
        /// Create.
        Create = 5,
        /// Delete, records too.
        Delete = 6,
        /// Change.
        Alter = 7,
        /// See that it is there.
        Describe = 8,
        /// What brokers do among themselves.
        ClusterAction = 9,
        /// See settings.
        DescribeConfigs = 10,
        /// Change settings.
        AlterConfigs = 11,
        /// Produce with a producer id; brokers from 3.0 on do not ask for it.
        IdempotentWrite = 12,
        /// Make delegation tokens for others.
        CreateTokens = 13,
        /// See delegation tokens of others.
        DescribeTokens = 14,
        /// Prepare transactions (KIP-939).
        TwoPhaseCommit = 15,
    }
}

codes! {
    /// Whether an ACL allows or denies.
    Permission {
        /// Denies, whatever else allows it.
        Deny = 2,
        /// Allows.
        Allow = 3,
    }
}

/// An ACL.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Acl {
    /// What it is about.
    pub resource_type: ResourceType,
    /// Which ones.
    pub resource_name: String,
    /// How the name is meant.
    pub pattern_type: PatternType,
    /// Who: `User:alice`, or `User:*`.
    pub principal: String,
    /// From which address; `*` is any.
    pub host: String,
    /// What.
    pub operation: Operation,
    /// Whether they may.
    pub permission: Permission,
}

impl fmt::Display for Acl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { resource_type, resource_name, pattern_type, principal, host, operation, permission } = self;
        write!(f, "{permission} {principal} from {host} {operation} on {pattern_type} {resource_type} {resource_name}")
    }
}

/// What we may do with something, as the authorizer says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operations(i32);

impl Operations {
    /// A bit for each operation's number (KIP-430).
    pub fn from_bits(bits: i32) -> Self {
        // This is for "not asked".
        Self(if bits == i32::MIN { 0 } else { bits })
    }

    /// Whether this one is among them.
    pub fn contains(self, operation: Operation) -> bool {
        u32::try_from(operation.code()).is_ok_and(|code| code < 32 && self.0 & (1 << code) != 0)
    }
}

impl Client {
    /// All ACLs.
    ///
    /// # Errors
    /// [`ClientError`]; `SECURITY_DISABLED` from a cluster without an authorizer.
    pub async fn describe_acls(&self) -> Result<Vec<Acl>, ClientError> {
        self.retry(Resend::Always, || async {
            let connection = self.any().await?;
            let request = DescribeAclsRequest::default()
                .with_resource_type_filter(ANY)
                .with_resource_name_filter(None)
                .with_pattern_type_filter(ANY)
                .with_principal_filter(None)
                .with_host_filter(None)
                .with_operation(ANY)
                .with_permission_type(ANY);
            let (asked, answer) = self.send(&connection, DESCRIBE_ACLS, |_| request).await?;
            asked.check(&Subject::cluster(), answer.error_code, answer.error_message.as_ref())?;
            let acls = answer.resources.iter().flat_map(|resource| {
                resource.acls.iter().map(|acl| Acl {
                    resource_type: resource.resource_type.into(),
                    resource_name: resource.resource_name.to_string(),
                    pattern_type: resource.pattern_type.into(),
                    principal: acl.principal.to_string(),
                    host: acl.host.to_string(),
                    operation: acl.operation.into(),
                    permission: acl.permission_type.into(),
                })
            });
            Ok(acls.collect())
        })
        .await
    }

    /// Creates ACLs. One that is there already stays as it is. Brokers go by them a moment later.
    pub async fn create_acls(&self, acls: &[Acl]) -> Answers<Acl, ()> {
        let asked = acls.iter().map(|acl| (acl.clone(), ())).collect();
        self.spread(ApiKey::CreateAcls, Nodes(|_: &Acl| Node::Any), Resend::Always, asked, |connection, batch| async move {
            let creations = batch.iter().map(|(acl, ())| {
                AclCreation::default()
                    .with_resource_type(acl.resource_type.code())
                    .with_resource_name(text(&acl.resource_name))
                    .with_resource_pattern_type(acl.pattern_type.code())
                    .with_principal(text(&acl.principal))
                    .with_host(text(&acl.host))
                    .with_operation(acl.operation.code())
                    .with_permission_type(acl.permission.code())
            });
            let request = CreateAclsRequest::default().with_creations(creations.collect());
            let (asked, answer) = self.send(&connection, CREATE_ACLS, |_| request).await?;
            // Results have no names: they are in the order of the request.
            let results = batch.into_iter().zip(&answer.results).map(|((acl, ()), result)| {
                let checked = asked.check(&Subject::other(&acl), result.error_code, result.error_message.as_ref());
                (acl, checked)
            });
            Ok(results.collect())
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_bits() {
        let read_and_describe = Operations::from_bits(1 << 3 | 1 << 8);
        assert!(read_and_describe.contains(Operation::Read) && read_and_describe.contains(Operation::Describe));
        assert!(!read_and_describe.contains(Operation::Write));
        for nothing in [Operations::from_bits(i32::MIN), Operations::from_bits(0)] {
            assert!(!(-128..=127).any(|code| nothing.contains(Operation::from(code))));
        }
    }
}

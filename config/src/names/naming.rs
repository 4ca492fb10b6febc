//! What a topic is called on the target: by exact names first, then by regexes in the order of the file, otherwise as on the source.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::selection::{Pattern, is_internal};

/// `[mirrors.rename]`, `[[mirrors.rename_regex]]` and `topic_naming` of a mirror.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Naming {
    pub(crate) exact: BTreeMap<String, String>,
    pub(crate) rules: Vec<Rule>,
    pub(crate) convention: Option<Pattern>,
}

/// One of `[[mirrors.rename_regex]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) pattern: Pattern,
    /// With `$1` or `${name}` for groups of the pattern.
    pub(crate) to: String,
}

/// A topic that cannot have the name on the target that the file gives it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NamingError {
    /// Kafka takes no such topic name.
    #[error("topic {topic:?} would be called {target:?} on the target: {reason}: correct [mirrors.rename] or [[mirrors.rename_regex]]")]
    Illegal {
        /// Its name on the source.
        topic: String,
        /// Its name on the target.
        target: String,
        /// Why, and what is allowed.
        reason: &'static str,
    },
    /// It is not as `topic_naming` wants it.
    #[error(
        "topic {topic:?} would be called {target:?} on the target, which is not as `topic_naming` wants it, {convention}: give it another \
         name in [mirrors.rename]"
    )]
    Unconventional {
        /// Its name on the source.
        topic: String,
        /// Its name on the target.
        target: String,
        /// `topic_naming`.
        convention: String,
    },
}

impl Naming {
    /// The name on the target of a topic of the source.
    ///
    /// # Errors
    /// [`NamingError`] if no topic may be called so, or if it is against the convention.
    pub fn target<'n>(&'n self, topic: &'n str) -> Result<Cow<'n, str>, NamingError> {
        let target = match self.exact.get(topic) {
            Some(target) => Cow::Borrowed(target.as_str()),
            None => self.rules.iter().find_map(|rule| rule.apply(topic)).map_or(Cow::Borrowed(topic), Cow::Owned),
        };
        if let Err(reason) = legal(&target) {
            return Err(NamingError::Illegal { topic: topic.to_owned(), target: target.into_owned(), reason });
        }
        match &self.convention {
            Some(convention) if !convention.matches(&target) => {
                let convention = convention.to_string();
                Err(NamingError::Unconventional { topic: topic.to_owned(), target: target.into_owned(), convention })
            }
            _ => Ok(target),
        }
    }
}

impl Rule {
    fn apply(&self, topic: &str) -> Option<String> {
        let captures = self.pattern.captures(topic)?;
        let mut target = String::new();
        captures.interpolate_string_into(topic, &self.to, &mut target);
        Some(target)
    }
}

/// As `Topic.validate` of Kafka has it; and what belongs to Kafka or kferry is nobody else's.
pub(crate) fn legal(topic: &str) -> Result<(), &'static str> {
    match topic {
        "" => Err("a topic name is not empty"),
        "." | ".." => Err("Kafka takes no topic name of dots only"),
        _ if !topic.chars().all(is_legal) => Err("a topic name has only ASCII letters, digits, `.`, `_` and `-`"),
        _ if topic.len() > LONGEST => Err("a topic name has at most 249 characters"),
        _ if is_internal(topic) => Err("it belongs to Kafka or kferry"),
        _ => Ok(()),
    }
}

/// Characters of the longest name of a topic (`Topic.MAX_NAME_LENGTH`).
const LONGEST: usize = 249;

/// The name of the topic that holds the dead letters of a copy, beside it.
pub fn dead_letter_topic(topic: &str) -> String {
    format!("{topic}.DLT")
}

/// Why a topic can have no dead letters: their topic's name would be too long for Kafka. `topic` is its name on the target.
pub fn no_room_for_dead_letters(topic: &str) -> Option<String> {
    let name = dead_letter_topic(topic);
    (name.len() > LONGEST)
        .then(|| format!("its dead letters would go to a topic with a name of {} characters, and Kafka takes {LONGEST}", name.len()))
}

pub(crate) fn is_legal(char: char) -> bool {
    char.is_ascii_alphanumeric() || matches!(char, '.' | '_' | '-')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn naming(exact: &[(&str, &str)], rules: &[(&str, &str)], convention: Option<&str>) -> Naming {
        Naming {
            exact: exact.iter().map(|&(old, new)| (old.to_owned(), new.to_owned())).collect(),
            rules: rules.iter().map(|&(pattern, to)| Rule { pattern: Pattern::new(pattern).unwrap(), to: to.to_owned() }).collect(),
            convention: convention.map(|convention| Pattern::new(convention).unwrap()),
        }
    }

    #[test]
    fn exact_names_come_first_and_then_the_first_regex() {
        let naming = naming(
            &[("payment.gone", "kept")],
            &[(r"payment\.(.+)", "billing.$1.v1"), ("(?<first>[a-z]+)-(?<rest>.*)", "${rest}.${first}_$0"), ("payment.*", "never")],
            None,
        );
        for (topic, target) in [
            ("payment.gone", "kept"),
            ("payment.cards", "billing.cards.v1"),
            ("a-b", "b.a_a-b"),
            ("orders", "orders"),
            ("payments", "never"),
            ("my.payment.x", "my.payment.x"),
        ] {
            assert_eq!(naming.target(topic).unwrap(), target, "{topic}");
        }
        assert!(matches!(naming.target("orders").unwrap(), Cow::Borrowed(_)));
    }

    #[test]
    fn a_group_that_takes_no_part_is_empty() {
        assert_eq!(naming(&[], &[("a(b)?c", "x${1}y")], None).target("ac").unwrap(), "xy");
    }

    #[test]
    fn names_that_no_topic_may_have() {
        let long = "a".repeat(250);
        for topic in ["", ".", "..", "a/b", "a b", "ü", "a\n", "__consumer_offsets", "__kferry.mirror.m", "kferry.routes", long.as_str()] {
            assert!(legal(topic).is_err(), "{topic}");
            assert!(matches!(naming(&[("a", topic)], &[], None).target("a"), Err(NamingError::Illegal { .. })), "{topic}");
        }
        assert!(["a", "...", "A_b-9.", &long[1..], "_x", "__x", "kferry"].iter().all(|topic| legal(topic).is_ok()));
        // Legal on both sides by itself, too long together.
        let doubled = naming(&[], &[("(.*)", "$1$1")], None);
        assert!(doubled.target(&long[..124]).is_ok());
        let error = doubled.target(&long[..125]).unwrap_err().to_string();
        assert!(
            error.ends_with("a topic name has at most 249 characters: correct [mirrors.rename] or [[mirrors.rename_regex]]"),
            "{error}"
        );
    }

    #[test]
    fn the_convention_is_about_the_new_name() {
        let naming = naming(&[("Orders", "commerce.orders")], &[], Some(r"[a-z]+(\.[a-z]+)+"));
        assert_eq!(naming.target("Orders").unwrap(), "commerce.orders");
        assert_eq!(
            naming.target("orders").unwrap_err().to_string(),
            r#"topic "orders" would be called "orders" on the target, which is not as `topic_naming` wants it, [a-z]+(\.[a-z]+)+: give it another name in [mirrors.rename]"#
        );
    }

    proptest! {
        #[test]
        fn without_rules_a_name_stays(topic in "[a-zA-Z0-9._-]{1,30}") {
            prop_assume!(legal(&topic).is_ok());
            let naming = Naming::default();
            prop_assert_eq!(naming.target(&topic).unwrap(), topic.as_str());
        }

        #[test]
        fn a_prefix_becomes_another(old in "[a-z]{1,5}", new in "[a-z]{1,5}", rest in "[a-zA-Z0-9._-]{1,30}") {
            let naming = naming(&[], &[(&format!(r"{old}\.(.+)"), &format!("{new}.$1"))], None);
            let (topic, other) = (format!("{old}.{rest}"), format!("x{old}.{rest}"));
            prop_assert_eq!(naming.target(&topic).unwrap(), format!("{new}.{rest}"));
            prop_assert_eq!(naming.target(&other).unwrap(), other.as_str());
        }

        /// Whatever the file says and the source has: what comes out can be created, and what cannot names the topic.
        #[test]
        fn a_target_is_legal_and_as_the_convention_wants_it(
            pattern in proptest::sample::select(vec!["(.*)", "(a*)(.*)", "(?<x>.)(?<y>.*)", "b.*"]), to in "[a._$ {}0-2xy]{0,8}",
            convention in proptest::option::of(proptest::sample::select(vec!["a.*", "[^_]*"])), topic in "[ab._]{0,6}|\\PC{0,6}",
        ) {
            let naming = naming(&[], &[(pattern, &to)], convention);
            match naming.target(&topic) {
                Ok(target) => {
                    prop_assert!(legal(&target).is_ok());
                    prop_assert!(naming.convention.as_ref().is_none_or(|convention| convention.matches(&target)));
                }
                Err(error) => prop_assert!(error.to_string().contains(&format!("{topic:?}")), "{}", error),
            }
        }
    }
}

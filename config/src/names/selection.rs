//! Which topics and groups are meant: by name, or by a regex or glob of the whole name, less those that are excluded.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;

use regex_automata::PatternID;
use regex_automata::meta::{self, Regex};
use regex_automata::util::captures::Captures;
use regex_automata::util::syntax;

use crate::matcher::{BadPattern, Ids, glob_to_regex};

/// The most memory that a pattern takes compiled, in bytes. As for routes: far more than what a person wrote needs.
const LARGEST: usize = 1 << 20;

/// Topics of Kafka's own: `Topic.INTERNAL_TOPICS` and the log of the controllers.
const KAFKAS: [&str; 4] = ["__consumer_offsets", "__transaction_state", "__share_group_state", "__cluster_metadata"];

/// Whether a topic belongs to Kafka (`__consumer_offsets`) or kferry itself (`kferry.routes`, `__kferry.mirror.m`). Such are never mirrored, and no
/// topic is renamed to such a name.
pub fn is_internal(topic: &str) -> bool {
    KAFKAS.contains(&topic) || topic.starts_with("kferry.") || topic.starts_with("__kferry.")
}

/// Whether a name looks as if it were of no interest to anybody but the tool that made it (`__amazon_msk_canary`, `__debezium-heartbeat.x`): only a
/// rule that names such means it.
fn is_hidden(name: &str) -> bool {
    name.starts_with(HIDDEN)
}

const HIDDEN: &str = "__";

/// `topics`, `topics_regex` and `exclude_regex` of a mirror, or `groups`, `groups_regex` and `groups_exclude_regex`; of a route `topics` and
/// `topics_regex`, or `groups` and `groups_regex`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Selection {
    pub(crate) names: BTreeSet<String>,
    pub(crate) patterns: Vec<Pattern>,
    pub(crate) excluded: Vec<Pattern>,
}

impl Selection {
    /// Whether this one is meant: it is named or matches a regex as a whole, and is not excluded. One that begins with `__` is meant only if it is named,
    /// or by a regex all of whose names begin so: `.*` does not mean it. [Internal](is_internal) ones never are.
    pub fn matches(&self, name: &str) -> bool {
        let means = |pattern: &Pattern| (pattern.means_hidden || !is_hidden(name)) && pattern.matches(name);
        !is_internal(name) && (self.names.contains(name) || self.patterns.iter().any(means)) && !self.excludes(name)
    }

    /// Whether this one would be meant if its name did not begin with `__`.
    pub fn passes_over(&self, name: &str) -> bool {
        let is_matched = self.patterns.iter().any(|pattern| pattern.matches(name)) && !self.excludes(name);
        !is_internal(name) && is_hidden(name) && is_matched && !self.matches(name)
    }

    /// The names that are written out, in their order, less those that are excluded: that one of them does not exist may be a slip.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str).filter(|name| self.matches(name))
    }

    /// Whether nothing can ever be meant, because there is neither a name nor a regex.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty() && self.patterns.is_empty()
    }

    /// A name that patterns of both mean: whichever comes first has it.
    pub fn overlap(&self, later: &Self) -> Option<String> {
        let mut pairs = self.patterns.iter().flat_map(|ours| later.patterns.iter().map(move |theirs| (ours, theirs)));
        pairs.find_map(|(ours, theirs)| ours.first_in(theirs).filter(|name| self.matches(name) && later.matches(name)))
    }

    pub(crate) fn excludes(&self, name: &str) -> bool {
        self.excluded.iter().any(|pattern| pattern.matches(name))
    }
}

/// Characters that are not themselves in a glob.
const SPECIAL: [char; 7] = ['*', '?', '[', ']', '{', '}', '\\'];

/// How a name is written in `topics` or `groups` of a route, where it might be taken for a glob.
pub fn as_glob(name: &str) -> Cow<'_, str> {
    if !Pattern::is_glob(name) {
        return Cow::Borrowed(name);
    }
    name.chars().flat_map(|char| SPECIAL.contains(&char).then_some('\\').into_iter().chain([char])).collect()
}

/// A regex, or a glob, that matches whole names.
#[derive(Clone)]
pub(crate) struct Pattern {
    written: String,
    /// What is written, or the regex that the glob is: by it two are the same.
    meant: String,
    regex: Regex,
    /// What all names that it matches begin with.
    prefix: Vec<u8>,
    /// That is `__`.
    means_hidden: bool,
}

impl Pattern {
    pub(crate) fn new(pattern: &str) -> Result<Self, BadPattern> {
        // By itself first: `a)|(b` is a regex only within the group below.
        syntax::parse(pattern).map_err(|error| not_a_regex(pattern, &error.to_string()))?;
        Self::compile(pattern, pattern.to_owned(), r"write fewer repetitions, or ASCII classes like [0-9A-Za-z_] instead of \w")
    }

    /// As `client_id` of a route has it.
    pub(crate) fn glob(glob: &str) -> Result<Self, BadPattern> {
        Self::compile(glob, glob_to_regex(glob)?, "write a shorter glob, with fewer `?`, `*` and alternatives, or several")
    }

    /// Whether a text is a glob and not a name.
    pub(crate) fn is_glob(text: &str) -> bool {
        text.contains(SPECIAL)
    }

    fn compile(written: &str, meant: String, simpler: &str) -> Result<Self, BadPattern> {
        let regex = Regex::builder()
            .configure(meta::Config::new().nfa_size_limit(Some(LARGEST)).onepass_size_limit(Some(LARGEST)))
            .build(&format!(r"\A(?:{meant})\z"))
            .map_err(|error| match (error.size_limit(), error.syntax_error()) {
                (None, Some(error)) => not_a_regex(written, &error.to_string()),
                _ => BadPattern { part: 0..written.len(), message: "too complex".to_owned(), hint: simpler.to_owned() },
            })?;
        let prefix = Ids::regex(&meant).map_or_else(|_| Vec::new(), |ids| ids.prefix().to_vec());
        let means_hidden = prefix.starts_with(HIDDEN.as_bytes());
        Ok(Self { written: written.to_owned(), meant, regex, prefix, means_hidden })
    }

    /// A shortest name that another one matches too.
    fn first_in(&self, other: &Self) -> Option<String> {
        // Most patterns share none, and this tells at once.
        if !self.prefix.starts_with(&other.prefix) && !other.prefix.starts_with(&self.prefix) {
            return None;
        }
        let (ours, theirs) = (Ids::regex(&self.meant).ok()?, Ids::regex(&other.meant).ok()?);
        ours.first_in(&theirs)
    }

    /// An internal topic that is meant by name or nearly so, and that nobody owns or copies.
    pub(crate) fn internal(&self) -> Option<&'static str> {
        KAFKAS.into_iter().chain(["__kferry.decisions"]).find(|topic| self.means_hidden && self.matches(topic))
    }

    pub(crate) fn matches(&self, name: &str) -> bool {
        self.regex.is_match(name)
    }

    /// The groups of a name that matches.
    pub(crate) fn captures(&self, name: &str) -> Option<Captures> {
        let mut captures = self.regex.create_captures();
        self.regex.captures(name, &mut captures);
        captures.is_match().then_some(captures)
    }

    /// The groups, the whole match first, with their names where they have some.
    pub(crate) fn group_names(&self) -> Vec<Option<String>> {
        self.regex.group_info().pattern_names(PatternID::ZERO).map(|name| name.map(str::to_owned)).collect()
    }
}

fn not_a_regex(pattern: &str, reason: &str) -> BadPattern {
    BadPattern {
        part: 0..pattern.len(),
        message: format!("not a regex: {}", reason.lines().last().unwrap_or_default().trim_start_matches("error: ")),
        hint: "it is read as by Rust's regex crate, without look-around and backreferences; it is about the whole name".to_owned(),
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.meant == other.meant
    }
}

impl Eq for Pattern {}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written)
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.written, f)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;
    use crate::matcher::ClientMatcher;

    fn patterns(patterns: &[&str]) -> Vec<Pattern> {
        patterns.iter().map(|pattern| Pattern::new(pattern).unwrap()).collect()
    }

    fn selection(names: &[&str], regexes: &[&str], excluded: &[&str]) -> Selection {
        let names = names.iter().map(|&name| name.to_owned()).collect();
        Selection { names, patterns: patterns(regexes), excluded: patterns(excluded) }
    }

    #[test]
    fn a_regex_is_about_the_whole_name() {
        for (pattern, yes, no) in [
            ("a", &["a"][..], &["ab", "ba", ""][..]),
            ("a|ab", &["a", "ab"], &["abb", "b"]),
            (r"^payment\..*$", &["payment.", "payment.x"], &["payment", "my-payment.x"]),
            ("a*?", &["", "aaa"], &["b"]),
            ("(?i)orders", &["ORDERS"], &["ORDERS2"]),
            (r"\borders\b", &["orders"], &["orders-2"]),
        ] {
            let pattern = Pattern::new(pattern).unwrap();
            for name in yes {
                assert!(pattern.matches(name), "{pattern} {name}");
            }
            for name in no {
                assert!(!pattern.matches(name), "{pattern} {name}");
            }
        }
    }

    #[test]
    fn a_glob_is_about_the_whole_name_and_a_dot_is_a_dot() {
        for (glob, yes, no) in [
            ("order-*", &["order-", "order-7"][..], &["order", "my-order-7"][..]),
            ("a.b*", &["a.b", "a.bc"], &["axb"]),
            ("{orders,payments}.v?", &["orders.v1", "payments.v2"], &["orders.v", "users.v1", "orders.v10"]),
            ("[!_]*", &["a", "ab"], &["_a", ""]),
            (r"a\*", &["a*"], &["a", "ab"]),
        ] {
            assert!(Pattern::is_glob(glob), "{glob}");
            let pattern = Pattern::glob(glob).unwrap();
            assert!(yes.iter().all(|name| pattern.matches(name)) && !no.iter().any(|name| pattern.matches(name)), "{glob}");
            assert_eq!(pattern.to_string(), glob);
        }
        assert!(!Pattern::is_glob("Orders_2.v-1"));
        // What is written alike is another thing as a regex.
        assert_ne!(Pattern::glob("a.*").unwrap(), Pattern::new("a.*").unwrap());
        assert_eq!(Pattern::glob("a.*").unwrap(), Pattern::glob("a.*").unwrap());
        for (glob, part) in [("a{b", 1..3), ("[b-a]", 1..4), ("a[", 1..2)] {
            assert_eq!(Pattern::glob(glob).unwrap_err().part, part, "{glob}");
        }
        assert!(Pattern::glob(&"?".repeat(100_000)).unwrap_err().message.contains("too complex"));
        let hidden = |glob: &str| Selection { patterns: vec![Pattern::glob(glob).unwrap()], ..Selection::default() };
        assert!(hidden("__debezium*").matches("__debezium-x") && !hidden("*debezium*").matches("__debezium-x"));
    }

    #[test]
    fn what_is_no_regex_by_itself_is_none() {
        for pattern in ["a)|(?:b", "(", "(?x)a # b", r"\w{1000}{1000}"] {
            let bad = Pattern::new(pattern).unwrap_err();
            assert!(!bad.message.contains('\n') && pattern.get(bad.part.clone()).is_some(), "{bad:?}");
        }
    }

    #[test]
    fn internal_topics_are_nobodys() {
        let everything = selection(&["__consumer_offsets"], &["(?s).*"], &[]);
        for topic in ["__consumer_offsets", "__transaction_state", "kferry.routes", "__kferry.mirror.a"] {
            assert!(is_internal(topic) && !everything.matches(topic) && !everything.passes_over(topic), "{topic}");
        }
        assert!(["_schemas", "kferry", "kferry-orders", ""].iter().all(|topic| everything.matches(topic)));
        assert_eq!(everything.names().count(), 0);
    }

    #[test]
    fn who_begins_with_two_underscores_is_meant_where_a_rule_names_it() {
        let heartbeat = "__debezium-heartbeat.orders";
        for (names, regexes, excluded, is_meant, is_passed_over) in [
            (&[][..], &[".*"][..], &[][..], false, true),
            (&[], &["__debezium.*"], &[], true, false),
            (&[], &[".*", "__debezium.*"], &[], true, false),
            (&[heartbeat], &[], &[], true, false),
            (&[], &["(__debezium|orders).*"], &[], false, true),
            (&[heartbeat], &[".*"], &[".*heartbeat.*"], false, false),
            (&[], &["orders"], &[], false, false),
        ] {
            let selection = selection(names, regexes, excluded);
            assert_eq!((selection.matches(heartbeat), selection.passes_over(heartbeat)), (is_meant, is_passed_over), "{selection:?}");
        }
    }

    #[test]
    fn nothing_is_selected_by_nothing() {
        assert!(Selection::default().is_empty() && !Selection::default().matches(""));
        assert!(selection(&[], &[], &["a"]).is_empty() && !selection(&[], &["a"], &["a"]).is_empty());
    }

    /// A regex over few characters, so that names match.
    fn regexes() -> impl Strategy<Value = String> {
        let leaf = proptest::sample::select(vec!["a", "b", ".", r"\.", "[ab]", "[^a]", "^", "$", "_"]).prop_map(str::to_owned);
        leaf.prop_recursive(3, 12, 3, |inner| {
            prop_oneof![
                (inner.clone(), inner.clone()).prop_map(|(one, other)| format!("{one}{other}")),
                (inner.clone(), inner.clone()).prop_map(|(one, other)| format!("(?:{one}|{other})")),
                inner.clone().prop_map(|inner| format!("(?:{inner})*")),
                inner.prop_map(|inner| format!("({inner})+?")),
            ]
        })
    }

    proptest! {
        /// Routes decide with an automaton of their own whether the whole of a name matches: both must say the same.
        #[test]
        fn a_pattern_matches_as_a_route_does(pattern in regexes(), name in "[ab._]{0,6}") {
            // One that nothing matches is an error there.
            let Ok(ids) = Ids::regex(&pattern) else { return Ok(()) };
            let expected = ClientMatcher::new(ids, None, None).matches(&name, Ipv4Addr::LOCALHOST.into(), None);
            prop_assert_eq!(Pattern::new(&pattern).unwrap().matches(&name), expected, "{} {:?}", pattern, name);
        }

        #[test]
        fn a_name_is_meant_if_it_is_written_or_matches_and_is_not_excluded(
            names in proptest::collection::btree_set("[ab_]{1,3}", 0..4), regexes in proptest::collection::vec(regexes(), 0..3),
            excluded in proptest::collection::vec(regexes(), 0..3), name in "[ab_]{1,3}",
        ) {
            let compiled = |patterns: &[String]| patterns.iter().map(|pattern| Pattern::new(pattern).unwrap()).collect::<Vec<_>>();
            let selection = Selection { names, patterns: compiled(&regexes), excluded: compiled(&excluded) };
            let any = |patterns: &[Pattern]| patterns.iter().any(|pattern| pattern.matches(&name));
            let written = selection.names.contains(&name) || any(&selection.patterns);
            // Of these regexes none means names that begin with `__` alone, but by chance.
            let by_name = selection.names.contains(&name) || selection.patterns.iter().any(|pattern| pattern.means_hidden && pattern.matches(&name));
            prop_assert_eq!(selection.matches(&name), written && !any(&selection.excluded) && (by_name || !name.starts_with("__")));
            prop_assert!(!selection.is_empty() || !selection.matches(&name));
            prop_assert_eq!(selection.names().any(|meant| meant == name), selection.names.contains(&name) && selection.matches(&name));
        }

        #[test]
        fn a_name_as_a_glob_is_that_name_alone(name in "[a*?{},\\[\\]\\\\!^-]{0,6}|\\PC{0,6}", other in "[a*?{},\\[\\]\\\\!^-]{0,6}") {
            let glob = as_glob(&name);
            if Pattern::is_glob(&glob) {
                let pattern = Pattern::glob(&glob).unwrap();
                prop_assert!(pattern.matches(&name) && pattern.matches(&other) == (name == other), "{} {}", glob, other);
            } else {
                prop_assert_eq!(&*glob, name.as_str());
            }
        }

        #[test]
        fn no_pattern_panics(pattern in "\\PC{0,20}|[a\\[\\]{}()|^$\\\\*?+-]{0,12}", name in "\\PC{0,10}") {
            match Pattern::new(&pattern) {
                Ok(compiled) => prop_assert_eq!(compiled.matches(&name), compiled.captures(&name).is_some()),
                Err(bad) => prop_assert!(!bad.message.contains('\n') && pattern.get(bad.part.clone()).is_some(), "{:?}", bad),
            }
        }
    }
}

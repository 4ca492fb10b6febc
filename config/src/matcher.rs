//! Who a route is for: globs and regexes over `client.id`, and which of them an earlier one shadows.
//!
//! Each pattern becomes a DFA over the bytes of valid UTF-8. So a match is one walk over the id, and "everything that this route matches is
//! matched by that one before it" is decided exactly, by a walk over both DFAs together, and not guessed from how the patterns look.

use std::collections::{HashMap, VecDeque};
use std::fmt::{self, Write as _};
use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use regex_automata::dfa::{Automaton, StartKind, dense};
use regex_automata::nfa::thompson::{self, WhichCaptures};
use regex_automata::util::primitives::StateID;
use regex_automata::util::{start, syntax};
use regex_automata::{Anchored, MatchKind};

/// The most memory of a pattern's automaton, in bytes: far more than a pattern that a person wrote needs, far less than one like
/// `(\w{100}){100}` would take.
const LARGEST: usize = 1 << 20;
const TOO_COMPLEX: &str = "too complex: to match it would take more than 1 MiB of memory";

/// The key of a glob.
const GLOB: &str = "client_id";

/// `client_id` or `client_id_regex`, `client_address` and `tls_subject` of a route. `Display` shows them as they are written.
#[derive(Clone)]
pub struct ClientMatcher {
    ids: Arc<Ids>,
    /// Networks that don't overlap, sorted.
    addresses: Arc<[IpNet]>,
    /// One of these, exactly. `None`: with any certificate, or none.
    subjects: Option<Arc<[String]>>,
    written: Arc<str>,
}

/// What is wrong with a pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BadPattern {
    /// The part of it, in bytes.
    pub(crate) part: Range<usize>,
    pub(crate) message: String,
    pub(crate) hint: String,
}

impl ClientMatcher {
    /// Whether a client is meant. A client without a `client.id` has the id `""`.
    pub fn matches(&self, client_id: &str, address: IpAddr, tls_subject: Option<&str>) -> bool {
        let address = address.to_canonical();
        let is_subject = |wanted: &Arc<[String]>| tls_subject.is_some_and(|subject| wanted.iter().any(|wanted| wanted == subject));
        self.addresses.iter().any(|network| network.contains(&address))
            && self.subjects.as_ref().is_none_or(is_subject)
            && self.ids.matches(client_id.as_bytes())
    }

    /// For the ids that match and, where there are some, for clients in these networks and with these subjects only.
    pub(crate) fn new(ids: Ids, addresses: Option<&[IpNet]>, subjects: Option<&[String]>) -> Self {
        let mut written = ids.to_string();
        if let Some(addresses) = addresses {
            let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
            written = format!("{written} client_address {}", addresses.join(", "));
        }
        if let Some(subjects) = subjects {
            written = format!("{written} tls_subject {subjects:?}");
        }
        let everywhere = [Ipv4Net::default().into(), Ipv6Net::default().into()];
        let networks: Vec<_> = addresses.unwrap_or(&everywhere).iter().map(|network| canonical(*network)).collect();
        Self {
            ids: Arc::new(ids),
            addresses: IpNet::aggregate(&networks).into(),
            subjects: subjects.map(Into::into),
            written: written.into(),
        }
    }

    /// Whether every IPv4 address is meant, or every IPv6 one, and no certificate is asked for.
    pub(crate) fn is_for_anybody(&self) -> bool {
        self.subjects.is_none() && self.addresses.iter().any(|network| network.prefix_len() == 0)
    }

    /// Whether an id is meant, of whichever client.
    pub(crate) fn has_id(&self, client_id: &str) -> bool {
        self.ids.matches(client_id.as_bytes())
    }

    /// Whether every id that is meant is one of these.
    pub(crate) fn is_within(&self, ids: &Ids) -> bool {
        ids.covers(&self.ids)
    }

    /// A shortest id that is meant.
    pub(crate) fn shortest_id(&self) -> String {
        String::from_utf8_lossy(&self.ids.shortest).into_owned()
    }

    /// A shortest id that is meant and one of these.
    pub(crate) fn first_id_in(&self, ids: &Ids) -> Option<String> {
        self.ids.first_in(ids)
    }

    /// The address and the certificate's subject of a client that is meant.
    pub(crate) fn someone(&self) -> (IpAddr, Option<&str>) {
        let address = self.addresses.first().map_or(IpAddr::from([0, 0, 0, 0]), IpNet::addr);
        (address, self.subjects.as_deref().and_then(<[String]>::first).map(String::as_str))
    }

    /// The bytes that all ids begin with that are meant.
    pub(crate) fn prefix(&self) -> &[u8] {
        self.ids.prefix()
    }

    /// Of routes by their [prefixes](Self::prefix), those that may cover this one. Every id begins with the prefix of the route that matches it.
    pub(crate) fn that_may_cover<'m, T>(&self, by_prefix: &'m HashMap<&[u8], Vec<T>>) -> impl Iterator<Item = &'m T> {
        let id = &self.ids.shortest;
        (0..=id.len()).filter_map(|end| by_prefix.get(&id[..end])).flatten()
    }

    /// Whether every client that `later` matches is matched by this one too.
    pub(crate) fn covers(&self, later: &Self) -> bool {
        let covers_subjects = match (&self.subjects, &later.subjects) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(ours), Some(theirs)) => theirs.iter().all(|subject| ours.contains(subject)),
        };
        // Merged networks leave no gap to fill: a network is covered by all of them only if one of them covers it.
        covers_subjects
            && later.addresses.iter().all(|theirs| self.addresses.iter().any(|ours| ours.contains(theirs)))
            && self.ids.covers(&later.ids)
    }
}

/// An IPv4 network written as IPv6 (`::ffff:10.0.0.0/104`) is that IPv4 network: clients on a socket for both arrive as such.
fn canonical(network: IpNet) -> IpNet {
    if let IpNet::V6(v6) = network
        && v6.prefix_len() >= 96
        && let Some(address) = v6.addr().to_ipv4_mapped()
    {
        return Ipv4Net::new_assert(address, v6.prefix_len() - 96).into();
    }
    network.trunc()
}

impl fmt::Display for ClientMatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written)
    }
}

impl fmt::Debug for ClientMatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClientMatcher({self})")
    }
}

/// A set of client ids.
pub(crate) struct Ids {
    key: &'static str,
    pattern: String,
    dfa: dense::DFA<Vec<u32>>,
    start: StateID,
    /// The shortest id in it. Most patterns don't share any, and this one tells at once.
    shortest: Vec<u8>,
    /// What all of them begin with.
    prefix: Vec<u8>,
}

impl Ids {
    /// A glob: `*` is any text, `?` any character, `[a-z]` and `[!a-z]` one of these or of the others, `{a,b}` either, `\` the next
    /// character as it is.
    pub(crate) fn glob(pattern: &str) -> Result<Self, BadPattern> {
        Self::compile(GLOB, pattern, &glob_to_regex(pattern)?)
    }

    /// A regex that matches the whole id.
    pub(crate) fn regex(pattern: &str) -> Result<Self, BadPattern> {
        syntax::parse(pattern).map_err(|error| {
            // The crate draws the pattern with a caret below, and then says what is wrong.
            let text = error.to_string();
            let reason = text.lines().last().unwrap_or_default().trim_start_matches("error: ");
            BadPattern {
                part: 0..pattern.len(),
                message: format!("not a regex: {reason}"),
                hint: "it is read as by Rust's regex crate, without look-around and backreferences; for a glob write `client_id`"
                    .to_owned(),
            }
        })?;
        Self::compile("client_id_regex", pattern, pattern)
    }

    fn compile(key: &'static str, pattern: &str, regex: &str) -> Result<Self, BadPattern> {
        let bad = |message: String, hint: &str| BadPattern { part: 0..pattern.len(), message, hint: hint.to_owned() };
        let dfa = dense::Builder::new()
            // All matches, not the leftmost-first: then the state at the end of the id says whether the whole of it matches.
            .configure(dense::Config::new().match_kind(MatchKind::All).start_kind(StartKind::Anchored).accelerate(false))
            .configure(dense::Config::new().dfa_size_limit(Some(LARGEST)).determinize_size_limit(Some(LARGEST)))
            .thompson(thompson::Config::new().which_captures(WhichCaptures::None).nfa_size_limit(Some(LARGEST)))
            .build(regex)
            .map_err(|error| {
                let reason = std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source()).last();
                let reason = reason.map(ToString::to_string).unwrap_or_default();
                if reason.contains("word boundar") {
                    bad("not supported: a word boundary between Unicode characters".to_owned(), r"write (?-u:\b), which knows ASCII words")
                } else {
                    let hint = if key == GLOB {
                        "write a shorter glob, with fewer `?`, `*` and alternatives, or several routes"
                    } else {
                        r"write fewer repetitions, or ASCII classes like [0-9A-Za-z_] instead of \w"
                    };
                    bad(TOO_COMPLEX.to_owned(), hint)
                }
            })?;
        let start = dfa
            .start_state(&start::Config::new().anchored(Anchored::Yes))
            .map_err(|error| bad(format!("not supported: {error}"), "write a simpler pattern"))?;
        let mut ids = Self { key, pattern: pattern.to_owned(), dfa, start, shortest: Vec::new(), prefix: Vec::new() };
        ids.prefix = ids.common_prefix();
        ids.shortest = ids
            .first_outside(None)
            .ok_or_else(|| bad("no client id can match this".to_owned(), "look for anchors or classes that contradict each other"))?;
        Ok(ids)
    }

    fn matches(&self, id: &[u8]) -> bool {
        let mut state = self.start;
        for &byte in id {
            state = self.dfa.next_state(state, byte);
            if self.dfa.is_dead_state(state) {
                return false;
            }
        }
        self.accepts(state)
    }

    /// Whether an id that ends in this state is matched.
    fn accepts(&self, state: StateID) -> bool {
        self.dfa.is_match_state(self.dfa.next_eoi_state(state))
    }

    /// The bytes that all of them begin with.
    pub(crate) fn prefix(&self) -> &[u8] {
        &self.prefix
    }

    /// The bytes that lead from the start, for as long as there is no end and no choice.
    fn common_prefix(&self) -> Vec<u8> {
        let (mut prefix, mut state) = (Vec::new(), self.start);
        // An id that is written out ends; this bound is for a pattern that never does.
        while !self.accepts(state) && prefix.len() < self.pattern.len() {
            let mut ways =
                (0..=u8::MAX).map(|byte| (byte, self.dfa.next_state(state, byte))).filter(|(_, next)| !self.dfa.is_dead_state(*next));
            let (Some((byte, next)), None) = (ways.next(), ways.next()) else { break };
            prefix.push(byte);
            state = next;
        }
        prefix
    }

    fn covers(&self, later: &Self) -> bool {
        self.matches(&later.shortest) && later.first_outside(Some(self)).is_none()
    }

    /// A shortest id that is in this set and not in the other one.
    fn first_outside(&self, other: Option<&Self>) -> Option<Vec<u8>> {
        self.first(other, |theirs| !theirs)
    }

    /// A shortest id that is in both.
    pub(crate) fn first_in(&self, other: &Self) -> Option<String> {
        self.first(Some(other), |theirs| theirs).map(|id| String::from_utf8_lossy(&id).into_owned())
    }

    /// A shortest id that is in this set, and for which `wanted` says so when it is told whether it is in the other one.
    fn first(&self, other: Option<&Self>, wanted: impl Fn(bool) -> bool) -> Option<Vec<u8>> {
        // Bytes that both DFAs treat alike lead to the same place: one of each such run will do.
        let (ours, theirs) = (self.dfa.byte_classes(), other.map(|other| other.dfa.byte_classes()));
        let class = |byte: u8| (ours.get(byte), theirs.map(|theirs| theirs.get(byte)));
        let bytes: Vec<u8> = (0..=u8::MAX).filter(|&byte| byte == 0 || class(byte) != class(byte - 1)).collect();

        let first = (self.start, other.map(|other| other.start));
        let mut came_from = HashMap::from([(first, None)]);
        let mut queue = VecDeque::from([first]);
        while let Some(pair) = queue.pop_front() {
            let (state, others) = pair;
            if self.accepts(state) && wanted(other.zip(others).is_some_and(|(other, state)| other.accepts(state))) {
                let mut id: Vec<u8> = std::iter::successors(came_from[&pair], |(pair, _)| came_from[pair]).map(|(_, byte)| byte).collect();
                id.reverse();
                return Some(id);
            }
            for &byte in &bytes {
                let next = (self.dfa.next_state(state, byte), other.zip(others).map(|(other, state)| other.dfa.next_state(state, byte)));
                let is_in_vain = other.zip(next.1).is_some_and(|(other, state)| other.dfa.is_dead_state(state)) && !wanted(false);
                if !self.dfa.is_dead_state(next.0) && !is_in_vain && !came_from.contains_key(&next) {
                    came_from.insert(next, Some((pair, byte)));
                    queue.push_back(next);
                }
            }
        }
        None
    }
}

impl fmt::Display for Ids {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.key, self.pattern)
    }
}

impl fmt::Debug for Ids {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Not by the globset crate: its `?` and `[é]` are bytes, and its `**/` knows paths.
pub(crate) fn glob_to_regex(glob: &str) -> Result<String, BadPattern> {
    let bad = |part: Range<usize>, message: &str, hint: &str| Err(BadPattern { part, message: message.to_owned(), hint: hint.to_owned() });
    let mut regex = String::from("(?s)");
    let mut open_braces = Vec::new();
    let mut chars = glob.char_indices().peekable();
    while let Some((at, char)) = chars.next() {
        match char {
            '*' => regex.push_str(".*"),
            '?' => regex.push('.'),
            '{' => {
                open_braces.push(at);
                regex.push_str("(?:");
            }
            ',' if !open_braces.is_empty() => regex.push('|'),
            '}' => {
                if open_braces.pop().is_none() {
                    return bad(at..at + 1, "not a glob: `}` without a `{`", r"write [}] for the character itself");
                }
                regex.push(')');
            }
            '[' => {
                let Some(end) = class_end(glob, at) else {
                    return bad(at..glob.len(), "not a glob: `[` without a `]`", "write [[] for the character itself");
                };
                regex.push_str(&class_to_regex(&glob[at + 1..end], at + 1)?);
                while chars.next_if(|(at, _)| *at <= end).is_some() {}
            }
            '\\' => match chars.next() {
                Some((_, literal)) => push_literal(&mut regex, literal),
                None => return bad(at..at + 1, r"not a glob: `\` at the end", r"write [\] for the character itself"),
            },
            _ => push_literal(&mut regex, char),
        }
    }
    match open_braces.last() {
        Some(&at) => bad(at..glob.len(), "not a glob: `{` without a `}`", "write [{] for the character itself"),
        None => Ok(regex),
    }
}

/// Where the class ends that starts at this `[`. A `]` that is its first character is itself.
fn class_end(glob: &str, start: usize) -> Option<usize> {
    let is_first = |at: usize| matches!(&glob[start..at], "[" | "[!" | "[^");
    glob[start..].match_indices(']').map(|(length, _)| start + length).find(|&at| !is_first(at))
}

/// What stands between the brackets of a class, from the offset `at` of the glob on.
fn class_to_regex(class: &str, at: usize) -> Result<String, BadPattern> {
    let (negated, members) = match class.strip_prefix(['!', '^']) {
        Some(members) => (true, members),
        None => (false, class),
    };
    let start = at + usize::from(negated);
    let mut regex = String::from(if negated { "[^" } else { "[" });
    let mut chars = members.char_indices().peekable();
    while let Some((from_at, from)) = chars.next() {
        push_literal(&mut regex, from);
        let mut ahead = chars.clone();
        // A dash at either end of the class is itself.
        if let (Some((_, '-')), Some((to_at, to))) = (ahead.next(), ahead.next()) {
            if to < from {
                return Err(BadPattern {
                    part: start + from_at..start + to_at + to.len_utf8(),
                    message: format!("not a glob: `{from}-{to}` is no range"),
                    hint: format!("write [{to}-{from}]"),
                });
            }
            regex.push('-');
            push_literal(&mut regex, to);
            chars = ahead;
        }
    }
    regex.push(']');
    Ok(regex)
}

fn push_literal(regex: &mut String, char: char) {
    if char.is_ascii_alphanumeric() {
        regex.push(char);
    } else {
        // Writing to a string cannot fail.
        let _ = write!(regex, "\\x{{{:x}}}", u32::from(char));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn glob(pattern: &str) -> ClientMatcher {
        ClientMatcher::new(Ids::glob(pattern).unwrap(), None, None)
    }

    fn regex(pattern: &str) -> ClientMatcher {
        ClientMatcher::new(Ids::regex(pattern).unwrap(), None, None)
    }

    fn within(networks: &[&str]) -> ClientMatcher {
        let networks: Vec<_> = networks.iter().map(|network| network.parse().unwrap()).collect();
        ClientMatcher::new(Ids::glob("*").unwrap(), Some(&networks), None)
    }

    fn is_for(matcher: &ClientMatcher, id: &str) -> bool {
        matcher.matches(id, IpAddr::from([127, 0, 0, 1]), None)
    }

    #[test]
    fn globs() {
        for (pattern, yes, no) in [
            ("*", &["", "a", "a/b", "ü", "a\nb"][..], &[][..]),
            ("", &[""], &["a"]),
            ("orders-*", &["orders-", "orders-1"], &["orders", "Orders-1", "my-orders-1", ""]),
            ("*-orders", &["-orders", "a-orders", "-orders-orders"], &["a-orders-"]),
            ("a?c", &["abc", "aüc", "a😀c", "a\nc"], &["ac", "abbc"]),
            ("[a-cx]", &["a", "b", "x"], &["d", "", "ab", "-"]),
            ("[!a-c]", &["d", "ü", "\n"], &["a", "", "dd"]),
            ("[^a]", &["b", "^"], &["a"]),
            ("[é]", &["é"], &["e", "\u{e9}\u{e9}"]),
            ("[]a-]", &["]", "a", "-"], &["b"]),
            ("[&&b~~c]", &["&", "b", "~", "c"], &["d"]),
            ("{orders,pay*}-?", &["orders-1", "pay-1", "payments-1"], &["orders-", "-1"]),
            ("a{b,{c,d}}{,e}", &["ab", "ac", "ade"], &["a", "ae"]),
            (r"\*\[\{\\", &[r"*[{\"], &[r"\*[{\"]),
            ("a,b.c+(d)|^$", &["a,b.c+(d)|^$"], &["a,bxc+(d)|^$"]),
            ("**/a", &["/a", "x/y/a"], &["a"]),
        ] {
            let matcher = glob(pattern);
            for id in yes {
                assert!(is_for(&matcher, id), "{pattern} {id}");
            }
            for id in no {
                assert!(!is_for(&matcher, id), "{pattern} {id}");
            }
        }
    }

    #[test]
    fn a_regex_matches_the_whole_id() {
        let matcher = regex("a|ab");
        assert!(is_for(&matcher, "a") && is_for(&matcher, "ab"));
        assert!(!is_for(&matcher, "abc") && !is_for(&matcher, "ba") && !is_for(&matcher, ""));
        assert!(is_for(&regex("^a$"), "a"));
        assert!(is_for(&regex("(?i)ORDERS-[0-9]{2,}"), "orders-17"));
        assert!(is_for(&regex(r"(?-u:\b)a(?-u:\b)"), "a"));
    }

    #[test]
    fn addresses() {
        let v4 = within(&["10.1.0.0/16", "127.0.0.1/32"]);
        let matches = |matcher: &ClientMatcher, address: &str| matcher.matches("", address.parse().unwrap(), None);
        assert!(matches(&v4, "10.1.2.3") && matches(&v4, "::ffff:10.1.2.3") && matches(&v4, "127.0.0.1"));
        assert!(!matches(&v4, "10.2.0.0") && !matches(&v4, "::1") && !matches(&v4, "::ffff:10.2.0.0"));
        let mapped = within(&["::ffff:10.1.0.0/112", "fd00::/8"]);
        assert!(matches(&mapped, "10.1.2.3") && matches(&mapped, "::ffff:10.1.2.3") && matches(&mapped, "fd00::1"));
        assert!(!matches(&mapped, "10.2.0.0") && !matches(&mapped, "fe80::1"));
        assert!(matches(&glob("*"), "::1") && matches(&glob("*"), "10.0.0.1"));
    }

    #[test]
    fn networks_cover_each_other() {
        let everywhere = glob("*");
        let ten = within(&["10.0.0.0/9", "10.128.0.0/9"]);
        assert!(ten.covers(&within(&["10.0.0.0/8"])) && within(&["10.0.0.0/8"]).covers(&ten));
        assert!(everywhere.covers(&ten) && !ten.covers(&everywhere));
        assert!(!ten.covers(&within(&["10.0.0.0/8", "11.0.0.1/32"])));
        assert!(within(&["0.0.0.0/0", "::/0"]).covers(&everywhere));
        assert!(!within(&["::/0"]).covers(&ten) && !within(&["0.0.0.0/0"]).covers(&everywhere));
    }

    #[test]
    fn subjects() {
        let with = |subjects: &[&str]| {
            let subjects: Vec<_> = subjects.iter().map(|&subject| subject.to_owned()).collect();
            ClientMatcher::new(Ids::glob("*").unwrap(), None, Some(&subjects))
        };
        let matches = |matcher: &ClientMatcher, subject| matcher.matches("", IpAddr::from([10, 0, 0, 1]), subject);
        let (orders, both) = (with(&["CN=orders"]), with(&["CN=orders", "CN=billing,O=Ferry"]));
        assert!(matches(&orders, Some("CN=orders")) && matches(&both, Some("CN=billing,O=Ferry")));
        for other in [None, Some(""), Some("CN=orders,O=Ferry"), Some("cn=orders"), Some("CN=order")] {
            assert!(!matches(&orders, other), "{other:?}");
        }
        assert!(matches(&glob("*"), Some("CN=orders")) && matches(&glob("*"), None));
        assert!(both.covers(&orders) && !orders.covers(&both) && glob("*").covers(&orders) && !orders.covers(&glob("*")));
        assert!(glob("*").is_for_anybody() && !orders.is_for_anybody());
        assert_eq!(orders.to_string(), r#"client_id "*" tls_subject ["CN=orders"]"#);
    }

    #[test]
    fn a_pattern_is_shown_as_it_is_written() {
        assert_eq!(glob("orders-*").to_string(), r#"client_id "orders-*""#);
        assert_eq!(format!("{:?}", regex("[0-9]+")), r#"ClientMatcher(client_id_regex "[0-9]+")"#);
        assert_eq!(within(&["10.0.0.0/8", "::1/128"]).to_string(), r#"client_id "*" client_address 10.0.0.0/8, ::1/128"#);
    }

    /// A glob by the book: what is written is what it says.
    fn naive(glob: &[char], id: &[char]) -> bool {
        match glob {
            [] => id.is_empty(),
            ['*', rest @ ..] => (0..=id.len()).any(|skipped| naive(rest, &id[skipped..])),
            ['?', rest @ ..] => !id.is_empty() && naive(rest, &id[1..]),
            ['[', '!', class, ']', rest @ ..] => id.first().is_some_and(|char| char != class) && naive(rest, &id[1..]),
            ['[', from, '-', to, ']', rest @ ..] => id.first().is_some_and(|char| (from..=to).contains(&char)) && naive(rest, &id[1..]),
            ['{', one, ',', other, '}', rest @ ..] => id.first().is_some_and(|char| char == one || char == other) && naive(rest, &id[1..]),
            ['\\', char, rest @ ..] | [char, rest @ ..] => id.first() == Some(char) && naive(rest, &id[1..]),
        }
    }

    /// Globs over few characters, so that they meet.
    fn globs_of(characters: &'static str) -> impl Strategy<Value = String> {
        let literal = proptest::sample::select(characters.chars().map(String::from).collect::<Vec<_>>());
        let wild = proptest::sample::select(vec!["*", "?", "[!a]", "[a-b]", "{a,b}", "\\*"]).prop_map(str::to_owned);
        proptest::collection::vec(prop_oneof![3 => literal, 2 => wild], 0..6).prop_map(|parts| parts.concat())
    }

    fn regexes() -> impl Strategy<Value = String> {
        let leaf = proptest::sample::select(vec!["a", "b", ".", "[ab]", "[^a]", "^", "$", "é"]).prop_map(str::to_owned);
        leaf.prop_recursive(3, 12, 3, |inner| {
            prop_oneof![
                (inner.clone(), inner.clone()).prop_map(|(one, other)| format!("{one}{other}")),
                (inner.clone(), inner.clone()).prop_map(|(one, other)| format!("(?:{one}|{other})")),
                inner.prop_map(|inner| format!("(?:{inner})*")),
            ]
        })
    }

    fn either() -> impl Strategy<Value = Result<Ids, BadPattern>> {
        prop_oneof![globs_of("ab").prop_map(|glob| Ids::glob(&glob)), regexes().prop_map(|regex| Ids::regex(&regex))]
    }

    /// All ids of up to five of three characters.
    fn small_ids() -> Vec<String> {
        let mut ids = vec![String::new()];
        let mut longest = ids.clone();
        for _ in 0..5 {
            longest = longest.iter().flat_map(|id| ["a", "b", "é"].map(|char| format!("{id}{char}"))).collect();
            ids.extend(longest.iter().cloned());
        }
        ids
    }

    proptest! {
        #[test]
        fn a_glob_matches_as_a_naive_one_does(pattern in globs_of("ab*é-"), id in "[ab*é\\-\n]{0,8}") {
            let (chars, id_chars): (Vec<_>, Vec<_>) = (pattern.chars().collect(), id.chars().collect());
            // A bare star among the literals is a wildcard, to both.
            prop_assert_eq!(is_for(&glob(&pattern), &id), naive(&chars, &id_chars), "{} {}", pattern, id);
        }

        #[test]
        fn a_route_is_shadowed_if_and_only_if_no_id_tells(earlier in either(), later in either()) {
            let (Ok(earlier), Ok(later)) = (earlier, later) else { return Ok(()) };
            prop_assert!(later.matches(&later.shortest) && later.shortest.starts_with(&later.prefix));
            match later.first_outside(Some(&earlier)) {
                Some(id) => {
                    prop_assert!(!earlier.covers(&later));
                    prop_assert!(std::str::from_utf8(&id).is_ok());
                    prop_assert!(later.matches(&id) && !earlier.matches(&id), "{} {} {:?}", earlier, later, id);
                }
                None => {
                    prop_assert!(earlier.covers(&later) && later.shortest.starts_with(&earlier.prefix));
                    for id in small_ids() {
                        prop_assert!(!later.matches(id.as_bytes()) || earlier.matches(id.as_bytes()), "{} {} {}", earlier, later, id);
                    }
                }
            }
        }

        #[test]
        fn no_pattern_panics(pattern in "\\PC{0,20}|[a\\[\\]{},!^\\\\*?-]{0,12}", id in "\\PC{0,10}") {
            for ids in [Ids::glob(&pattern), Ids::regex(&pattern)] {
                match ids {
                    Ok(ids) => { ids.matches(id.as_bytes()); }
                    Err(bad) => prop_assert!(pattern.get(bad.part.clone()).is_some(), "{} {:?}", pattern, bad),
                }
            }
        }
    }
}

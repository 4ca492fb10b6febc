//! What the file names and is not there: a slip of the pen, or a right that is missing. A pattern that nothing matches is neither.

use kferry_config::Mirror;

/// The topics that `topics` of a mirror names and its source does not show, each with a sentence about it.
pub fn unseen_topics<'m>(mirror: &'m Mirror, is_there: impl Fn(&str) -> bool + 'm) -> impl Iterator<Item = (&'m str, String)> {
    let source = &mirror.source.name;
    let sentence = move |name| {
        let why = format!("topic {name} is not on {source}, or the principal may not see it there; correct `topics`, or grant Describe");
        (name, why)
    };
    mirror.topics.names().filter(move |name| !is_there(name)).map(sentence)
}

/// The groups that `groups` of a mirror names and that have committed nothing in its topics, each with a sentence about it.
pub fn unseen_groups<'m>(mirror: &'m Mirror, has_committed: impl Fn(&str) -> bool + 'm) -> impl Iterator<Item = (&'m str, String)> {
    let source = &mirror.source.name;
    let sentence = move |name| {
        let why = format!(
            "group {name} has committed nothing in the mirror's topics on {source}, or the principal may not see it there; correct `groups`, or grant \
             Describe"
        );
        (name, why)
    };
    mirror.groups.names().filter(move |name| !has_committed(name)).map(sentence)
}

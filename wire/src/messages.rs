//! Lines of the log that are for operators: at level info and above each program has a table of them, its `messages`.
//!
//! What varies is in the fields beside a message, so its text can be looked up: `docs/operating.md` says what to do about each, and
//! `tests/docs.rs` holds the two together. In the programs `tracing::info!` and the like are refused by clippy (`clippy.toml`).

use tracing::Level;

/// A line's level and text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message {
    /// How bad it is.
    pub level: Level,
    /// What it says.
    pub text: &'static str,
}

/// A program's table: a constant for each message, and `MESSAGES`, all of them. `MESSAGES` is made from the texts and not from the constants, so that the
/// compiler warns of a `pub(crate)` constant that nobody uses; `pub` ones are for `main.rs`.
///
/// ```
/// # mod program {
/// kferry_wire::messages! {
///     pub table {
///         INFO READY = "ready";
///         WARN STILL_OPEN = "still open";
///     }
/// }
/// # }
/// assert_eq!(program::MESSAGES, [program::READY, program::STILL_OPEN]);
/// ```
#[macro_export]
macro_rules! messages {
    ($($visible:vis table { $($level:ident $name:ident = $text:literal;)* })*) => {
        $($(#[allow(missing_docs, reason = "the text says it")]
        $visible const $name: $crate::messages::Message = $crate::messages! { @ $level $text };)*)*

        /// All of them.
        pub const MESSAGES: &[$crate::messages::Message] = &[$($($crate::messages! { @ $level $text }),*),*];
    };
    (@ $level:ident $text:literal) => {
        $crate::messages::Message { level: ::tracing::Level::$level, text: $text }
    };
}

/// In an `impl`: `label` gives what a value is called in a metric or a table, and `LABELS` has all of them. One match makes both, so the compiler misses
/// no variant.
///
/// ```
/// enum Way { Direct, Through(u16) }
/// impl Way {
///     kferry_wire::labels! {
///         Self::Direct => "direct",
///         Self::Through(_) => "through",
///     }
/// }
/// assert_eq!(Way::LABELS, [Way::Direct.label(), Way::Through(1).label()]);
/// ```
#[macro_export]
macro_rules! labels {
    ($($variant:pat => $label:literal,)*) => {
        /// All labels.
        pub const LABELS: &[&str] = &[$($label),*];

        /// The value of the metric's label.
        pub fn label(&self) -> &'static str {
            match self {
                $($variant => $label,)*
            }
        }
    };
}

/// Writes a message to the log, with fields as in `tracing`'s own macros. What is of use only as text, such as an error of several lines, may follow it.
///
/// ```
/// # use kferry_wire::{messages::Message, tell};
/// # let (cluster, reason) = ("new", "no route to host");
/// const AWAY: Message = Message { level: tracing::Level::WARN, text: "the cluster is away" };
/// tell!(AWAY, cluster, servers = 3);
/// tell!(AWAY: ": {reason}", cluster);
/// ```
#[macro_export]
macro_rules! tell {
    ($message:path: $more:literal $(, $($fields:tt)*)?) => {
        ::tracing::event!(target: module_path!(), $message.level, {
            message = ::std::format_args!("{}{}", $message.text, ::std::format_args!($more))
            $(, $($fields)*)?
        })
    };
    ($message:path $(, $($fields:tt)*)?) => {
        ::tracing::event!(target: module_path!(), $message.level, { message = $message.text $(, $($fields)*)? })
    };
}

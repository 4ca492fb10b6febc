//! What `kferry-proxy` says in its log. `docs/operating.md` has each with what to do about it.

kferry_wire::messages! {
    pub table {
        INFO READY = "kferry-proxy is ready";
        ERROR CANNOT_START = "kferry-proxy cannot start";
        INFO SIGTERM = "SIGTERM";
        INFO SIGINT = "SIGINT";
    }

    pub(crate) table {
        // Start and stop.
        INFO LISTENING = "listening for Kafka clients";
        INFO LISTENING_FOR_OPERATORS = "listening for operators: /metrics /healthz /readyz /clients /moves /reload";
        WARN CAPPED = "limits.max_connections is more than the limit of open files allows; clients beyond that are refused";
        INFO DRAINING = "draining";
        INFO DRAINED = "drained: every connection ended at a quiet moment";
        WARN CUT = "drain_timeout_ms is over: the connections left are cut";

        // The file.
        INFO IN_FORCE = "routes.toml is in force";
        INFO READ_AGAIN = "routes.toml is unchanged; certificates were read again";
        WARN PROBABLY_NOT_MEANT = "routes.toml is taken, though something in it is probably not meant";
        WARN NEEDS_RESTART = "this needs a restart of kferry-proxy, the rest of the file is in force";
        ERROR NOT_TAKEN = "routes.toml was not taken";

        // Connections.
        INFO CLOSED = "connection closed";
        WARN CLOSED_IN_TROUBLE = "connection closed";
        DEBUG CLOSED_WITHOUT_A_WORD = "connection closed";
        ERROR CANNOT_ACCEPT = "cannot accept";
        WARN NO_MORE_PIPES = "no more pipes to splice through: some bodies are copied, for half as much CPU again; \
                              raise fs.pipe-user-pages-soft, or the limit of open files";
        ERROR ADMIN_FAILED = "the admin address failed";

        // Moves.
        INFO JOINED = "joined those that decide where topics lead: relayed clients are served";
        WARN NOT_LEFT = "the log of decisions was not told that this process has left: moves wait for the next one at its place, or for kferry move forget";
        INFO HOLD = "a move: its topics and groups are held";
        INFO FLIP = "a move: the other cluster leads";
        WARN ABORT = "a move was given up: everybody goes on where they were";
        WARN ROUTE_WAITS = "a route does not move as routes.toml wishes";
        WARN LOG_TROUBLE = "the log of decisions cannot be read or written just now";
        ERROR LOG_REFUSED = "the log of decisions must not be followed: relayed clients are cut, and kferry-proxy ends";
        ERROR ANOTHER_LOG = "topics lead where another log of decisions says: relayed clients are not served, and kferry-proxy ends";
        ERROR REPLACED = "another process took the place of this one, or an operator has forgotten it: relayed clients are cut, and kferry-proxy ends";

        // Brokers.
        INFO BROKER = "broker";
        WARN BROKERS_UNKNOWN = "cannot ask the cluster for its brokers";
        WARN NOT_IN_TRANSACTION = "a transaction was refused: a topic or a group in it is on another cluster than its coordinator";
        WARN COPY_NOT_WRITTEN = "a client was refused: the topic is a copy, which only the mirror writes";
        WARN NOT_SEEN = "a cluster does not say what it has: for clients that see it beside another one, what leads there has no leader";
        INFO SEEN_AGAIN = "a cluster says what it has again";
        ERROR WRONG_CLUSTER = "a server is of another cluster";
        INFO RIGHT_CLUSTER = "a server is of the right cluster again";
        ERROR NODE_ID_OUTSIDE = "a broker's node id is outside of node_ids in routes.toml: relayed clients of this cluster are refused; widen it";
    }
}

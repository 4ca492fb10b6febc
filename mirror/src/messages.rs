//! What `kferry-mirror` says in its log. `docs/operating.md` has each with what to do about it.

kferry_wire::messages! {
    pub table {
        INFO READY = "kferry-mirror is ready";
        ERROR CANNOT_START = "kferry-mirror cannot start";
        WARN CANNOT_BEGIN = "cannot begin; it is tried again";
        INFO SIGTERM = "SIGTERM";
        INFO SIGINT = "SIGINT";
        INFO DONE = "done";
        ERROR NOT_COPIED = "not copied";
        ERROR OFFSET_LEFT = "its offset is not copied";
        ERROR NOT_ACCEPTED = "--accept names what is not there";
    }

    pub(crate) table {
        // Start and stop.
        INFO PROGRESS = "progress";
        ERROR ADMIN_FAILED = "the admin address failed";

        // Topics.
        INFO DONE_ON_FOLLOWER = "done on the follower";
        INFO BORN = "topics were born on the target: they lead there, and are copied the other way once every proxy knows that";
        WARN SETTING_REFUSED = "the follower refuses a setting; its topic is created without it";
        WARN ONE_REPLICA = "created with one replica, which is the default.replication.factor of its cluster";
        WARN TOPICS_UNKNOWN = "the clusters' topics cannot be looked at; it is tried again";
        WARN TOPIC_REFUSED = "the topic cannot be copied";
        INFO SETTINGS_CHANGED = "the follower's settings go after the leader's";
        WARN SETTING_NOT_CHANGED = "the follower refuses a setting; it stays as it is";
        WARN SETTINGS_STAY = "the follower's settings cannot go after the leader's; it is tried again";
        WARN COPY_AT_RISK = "the follower keeps less than the leader";
        WARN COPY_DELETED = "the follower has deleted records that the leader still has";
        WARN LOG_START_STAYS = "the follower's log start cannot go after the leader's";
        INFO GONE = "the leader has it no more, or the file does not select it; the follower's is left as it is";

        // Partitions.
        INFO INTERRUPTED = "interrupted; it is tried again";
        WARN STILL_INTERRUPTED = "still interrupted; it is tried again";
        WARN THROTTLED = "a broker throttles the mirror by a quota";
        ERROR WRONG_CLUSTER = "a server is of another cluster";
        ERROR FAILED = "cannot be copied; it is tried again in a minute";
        ERROR DIVERGED = "diverged";
        WARN DIVERGED_BEFORE = "it has diverged before, and is not copied";
        WARN COPIED_AGAIN = "the follower lost records; they are copied again";
        WARN LEFT_OUT = "left out";
        WARN LOST_ON_LEADER = "the leader deleted offsets before they were copied; it goes on behind them";
        WARN HELD_UP = "an open transaction holds it up";

        // Groups.
        INFO OFFSETS_COPIED = "the groups' offsets are copied";
        WARN OFFSETS_UNKNOWN = "the groups' offsets cannot be looked at; it is tried again";
        ERROR OFFSET_REFUSED = "its offset cannot be copied; it is tried again";
        INFO OFFSET_NOT_COPIED = "its offset is not copied";
        WARN MORE_OFFSETS_NOT_COPIED = "offsets of groups that are not copied; GET /groups has all of them";

        // What it keeps.
        WARN NOT_KEPT_YET = "what is known of partitions is not kept yet; it is tried again";
        WARN NOT_KEPT = "the next start compares more than it would have to";
        WARN NOT_KEPT_IN_TIME = "the state is not kept in time; the next start compares more than it would have to";
        WARN REFUSALS_NOT_KEPT = "that offsets of groups were refused is not kept";
        WARN STATE_UNREAD = "a shard's state cannot be read; it is tried again";
        WARN UNKNOWN_KEY = "the mirror's state has a record with a key that it does not know";
        WARN UNREADABLE_RECORD = "the mirror's state has a record that it cannot read";

        // Several processes.
        INFO SHARDS_GAINED = "shards gained";
        INFO SHARDS_REVOKED = "shards go to another process";
        WARN SHARDS_LOST = "shards lost: the group went on without this process";
        WARN LEASE_OVER = "the lease has run out: no word from the group's coordinator for too long; it is joined anew";
        WARN NOT_AT_REST = "partitions of shards that go to another process did not come to rest in time";
        WARN NO_MEMBER = "no member of the mirror's group; it is tried again";
        WARN NOT_LEFT = "the group could not be left in time; the others take over when the session is over";
        WARN LIBRDKAFKA_HANGS = "librdkafka hangs; the mirror's group is joined anew without it";
        WARN LIBRDKAFKA_WARNS = "librdkafka";
        INFO LIBRDKAFKA = "librdkafka";

        // Moves.
        WARN LOG_TROUBLE = "the log of decisions cannot be read or written just now";
        INFO TURNED = "another cluster leads the topic: it is copied the other way from here on";
        ERROR LOG_REFUSED = "the log of decisions must not be followed: nothing is copied any more";
    }
}

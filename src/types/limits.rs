//! Compile-time ceilings. Each has a designed answer when it is hit and a test that hits it.

use std::time::Duration;

/// Longest repository name, characters (what every client accepts; the spec advises 255).
pub const REPOSITORY_NAME_MAX: usize = 255;
/// Longest name of another registry in `?ns=`, characters: a DNS name and a port. Over it: 404.
pub const NAMESPACE_MAX: usize = 262;
/// Longest tag, characters (OCI distribution-spec).
pub const TAG_MAX: usize = 128;
/// Shortest name of a token, scope map or connected registry, characters (ACR).
pub const NAME_MIN: usize = 5;
/// Longest name of a token, scope map or connected registry, characters (ACR).
pub const NAME_MAX: usize = 50;
/// Longest description of a scope map, characters (ACR). Over it: 400.
pub const DESCRIPTION_MAX: usize = 256;
/// Changes that the audit keeps. Over it: the oldest goes.
pub const DEEDS_MAX: u64 = 1000;
/// Refused changes that it keeps, in memory. Over it: the oldest goes.
pub const REFUSED_DEEDS_MAX: usize = 100;
/// Client tokens that one connected registry accepts (ACR, 05/2025). Over it: 400.
pub const CLIENT_TOKENS_MAX: usize = 50;
/// Levels of connected registries below the root. Over it: 400; a longer chain of parents that is
/// stored all the same is damage.
pub const TREE_DEPTH_MAX: usize = 64;
/// Repository permissions in one scope map (ACR). Over it: 400.
pub const SCOPE_MAP_PERMISSIONS_MAX: usize = 500;

/// Largest manifest, bytes; the spec asks for at least 4 MiB. Over it: 413.
pub const MANIFEST_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Layers of one image or manifests of one index. Over it: 400.
pub const MANIFEST_DESCRIPTORS_MAX: usize = 10_000;
/// Levels of manifests: an index, what it names, what that names, and so on. Over it: 400, and a
/// device leaves the tag out.
pub const MANIFEST_LEVELS_MAX: usize = 8;
/// Manifests that one needs, on all levels below it. Over it: as above.
pub const MANIFESTS_BELOW_MAX: usize = 10_000;
/// What a device has in memory of one tag while it fetches it, bytes: some 95,000 different blobs,
/// or 75,000 in the greatest number of manifests. Over it: a device leaves the tag out.
pub const CLOSURE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Annotations of a manifest with a subject, bytes, with 16 for each: a listing of referrers has
/// them all. Over it: 413.
pub const ANNOTATIONS_BYTES_MAX: usize = 16 * 1024;
/// Tags that one push by digest may set. Over it: 414.
pub const TAGS_PER_PUSH_MAX: usize = 64;
/// Largest page of a listing of referrers, bytes. Over it, or over one buffer when there is no
/// memory for more: the page ends early.
pub const REFERRERS_PAGE_BYTES_MAX: usize = 256 * 1024;
/// What the admin socket has of memory for bodies, bytes: clients do not take it.
pub const ADMIN_BODY_MEMORY_BYTES: u64 = 1024 * 1024;
/// Manifests kept in memory, bytes in all. Over it: the least recently used go.
pub const MANIFEST_CACHE_BYTES_MAX: usize = 1024 * 1024;

/// Largest request head, bytes: a bearer token of 8 KiB and its company. Over it: 431.
pub const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Most header fields in a request. Over it: 431.
pub const HEADERS_MAX: usize = 64;
/// Largest body of a request before its sender has logged in, bytes: a form with a password or a
/// token in it. Over it: 413.
pub const LOGIN_BODY_BYTES_MAX: u64 = 16 * 1024;
/// Scopes in one request for a token. Over it: 400.
pub const SCOPES_MAX: usize = 64;
/// Actions in one scope, and in all scopes of one resource together. Over it: 400.
pub const SCOPE_ACTIONS_MAX: usize = 16;
/// Largest form or JSON body of an endpoint that is no upload, bytes. Over it: 413.
pub const SMALL_BODY_BYTES_MAX: u64 = 1024 * 1024;
/// Memory for the bodies of all requests together unless configured, bytes. Over it: the sender
/// waits, then 503.
pub const BODY_MEMORY_BYTES: u64 = 32 * 1024 * 1024;
/// The part of that memory for senders before their login. Over it: the sender waits, then 503.
pub const LOGIN_SHARE: (u64, u64) = (3, 8);
/// The part of that memory for replies of more than one buffer, half of it at most for one account.
/// Over it: a listing has a shorter page, or the reply waits before it is made, then 503.
pub const REPLY_SHARE: (u64, u64) = (1, 8);
/// The part of that memory that uploads may gather bytes in. An eighth is left when senders before
/// their login and replies have theirs too: of the usual memory, the largest manifest. Over it: the
/// upload goes on, in steps of one buffer.
pub const UPLOAD_SHARE: (u64, u64) = (3, 8);
/// How much of an unread request body is drained to keep a connection, bytes. Over it: close.
pub const DRAIN_BYTES_MAX: u64 = 64 * 1024;
/// How much of a request is read and dropped after its answer has gone out and the connection has
/// ended on our side, bytes: four times the largest manifest. Over it: nothing more is read, and
/// the connection is reset after [`LINGER_PAUSE`].
pub const LINGER_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Copy buffer for bodies, bytes.
pub const BUFFER_BYTES: usize = 64 * 1024;
/// One step of sendfile, bytes, so that competing transfers take turns.
pub const SENDFILE_STEP_BYTES: usize = 1024 * 1024;
/// One step of a transfer that is copied or encrypted, bytes: it costs as much as a step of
/// sendfile, or more.
pub const COPY_STEP_BYTES: usize = 256 * 1024;

/// A request head must be complete within this time. Over it: 408.
pub const HEAD_DEADLINE: Duration = Duration::from_secs(10);
/// A connection may stay idle between requests for this time. Over it: close.
pub const IDLE_DEADLINE: Duration = Duration::from_secs(60);
/// A body must make progress within this time, in either direction. Over it: 408 or close.
pub const PROGRESS_DEADLINE: Duration = Duration::from_secs(30);
/// The body of a request must be here whole within this time when its sender has not logged in.
/// Over it: 408.
pub const LOGIN_BODY_DEADLINE: Duration = Duration::from_secs(10);
/// Bytes for which the body of a logged-in request has one second beyond that. Over it: 408.
pub const BODY_BYTES_PER_S: u64 = 64 * 1024;
/// The rest of a small unread body must be here within this time. Over it: the connection ends.
pub const DRAIN_DEADLINE: Duration = Duration::from_secs(2);
/// A client that was answered before it had sent its whole request must send something within this
/// time, or close. Over it: the connection is reset.
pub const LINGER_PAUSE: Duration = Duration::from_secs(10);
/// A client that was answered early must be done within this time: 5 MB at 50 kB/s take 100 s. Over
/// it, or when another one needs the connection: reset.
pub const LINGER_DEADLINE: Duration = Duration::from_secs(120);
/// The same when the server shuts down.
pub const LINGER_STOP_DEADLINE: Duration = Duration::from_secs(2);
/// A buffer of an upload must be full within this time. Over it: what has arrived is written, and
/// the upload gathers no more until it is faster.
pub const UPLOAD_PACE: Duration = Duration::from_secs(1);
/// How long a request waits for its part of the memory for bodies. Over it: 503.
pub const BODY_WAIT_DEADLINE: Duration = Duration::from_secs(10);
/// Bytes for which a transfer with the parent has one second beyond its deadline: what the slowest
/// link carries. Over it: the link counts as broken.
pub const SLOWEST_BYTES_PER_S: u64 = 4 * 1024;
/// An ordinary request that we send must be answered within this time.
pub const REQUEST_DEADLINE: Duration = Duration::from_secs(10);
/// Longest wait of a long poll at the gateway.
pub const POLL_WAIT_MAX: Duration = Duration::from_secs(300);
/// Redirects that a client of ours follows.
pub const REDIRECTS_MAX: usize = 5;

/// Connections of clients and children served at once. Over it: the one that is idle longest makes
/// room, otherwise 503 and close.
pub const CONNECTIONS_MAX: usize = 1024;
/// Connections of the admin socket served at once. Over it: as above.
pub const ADMIN_CONNECTIONS_MAX: usize = 8;
/// Commands that wait for the writer. Over it: the caller waits.
pub const WRITER_QUEUE_MAX: usize = 256;
/// Commands in one group commit.
pub const GROUP_COMMANDS_MAX: usize = 128;
/// Bytes of one group commit after which the group is closed.
pub const GROUP_BYTES_MAX: usize = 1024 * 1024;
/// Size at which a journal segment is rotated, bytes.
pub const SEGMENT_BYTES: u64 = 4 * 1024 * 1024;
/// Largest record in the journal, bytes: a connected registry writes its desired state in one, as a
/// whole and in parts. Over it: the command is refused.
pub const RECORD_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Largest desired state of a connected registry, bytes: what its parent sends it. It has room for
/// 400 children with 100 repositories of 44 characters each, or 1,024 with 40. Over it: what would
/// make it larger is refused at the root.
pub const DESIRED_STATE_BYTES_MAX: u64 = 15 * 1024 * 1024;
/// What is kept of a status report of a node below: so many details, so much of each text, and so
/// much of all of them, bytes. Over it: the rest is left out, the node's own status has it.
pub const REPORT_DETAILS_MAX: usize = 64;
/// See [`REPORT_DETAILS_MAX`].
pub const REPORT_TEXT_BYTES_MAX: usize = 2048;
/// See [`REPORT_DETAILS_MAX`].
pub const REPORT_BYTES_MAX: usize = 32 * 1024;
/// Journal kept for children that follow the feed, bytes.
pub const JOURNAL_RETAIN_BYTES: u64 = 64 * 1024 * 1024;
/// Threads of the blocking pool unless configured.
pub const BLOCKING_THREADS: usize = 8;

/// Names, tags or messages in one page unless the client asks for fewer.
pub const PAGE_MAX: usize = 1000;
/// Open uploads on one node. Over it: an abandoned one makes room, otherwise 429.
pub const UPLOADS_MAX: usize = 1000;
/// An upload without progress for this time is removed.
pub const UPLOAD_TTL: Duration = Duration::from_secs(24 * 3600);

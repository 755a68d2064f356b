//! The bridge: completions → shard inputs, shard outputs → submissions.

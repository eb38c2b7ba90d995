-- Where each file of a pair lies: `length_bytes` bytes from byte `offset_bytes` of the store's object
-- `object` are the file. tgt.png is the target, ctx0.png and so on its contexts, json the text.
SELECT
    m.dataset, m.pair_id, f.file.name AS file, 'blobs/sha256/' || s.sha256[:2] || '/' || s.sha256 AS object,
    f.file.offset_bytes, f.file.length_bytes
FROM shard_members m JOIN shards s USING (dataset, shard_id), unnest(m.files) AS f (file)

-- Accepted pairs of the train split with their text and scores: what training reads.
SELECT
    p.dataset, p.pair_id, p.relation_class AS category, p.relation, p.miner, p.params,
    p.context_ids, p.target_id, c.instruction, c.instruction_short, c.instruction_inverse,
    c.target_caption, p.source, p.license_spdx, s.component_id, q.clip_t, q.clip_dir, q.ssim, q.l1,
    q.changed_frac
FROM pairs p
JOIN acceptance a ON a.dataset = p.dataset AND a.pair_id = p.pair_id AND a.accept
JOIN splits s ON s.dataset = p.dataset AND s.pair_id = p.pair_id AND s.split = 'train'
JOIN captions c ON c.dataset = p.dataset AND c.pair_id = p.pair_id
JOIN pair_scores q ON q.dataset = p.dataset AND q.pair_id = p.pair_id

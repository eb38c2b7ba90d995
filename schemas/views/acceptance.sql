-- Which pairs are accepted, and if not, every reason why. The rule for training data: thresholds
-- come from the policy table, where `<name>@<relation_class>` overrides `<name>`.
-- A pair without scores or caption is rejected, as is everything while a dataset has no policy. So is
-- an edit that a judge was asked about in vain, or was never asked about although there is a limit.
WITH limits AS (
    -- FLOAT like the scores: 0.03 the score must not be below 0.03 the limit
    SELECT dataset, map_from_entries(list(struct_pack(k := name, v := value::FLOAT))) AS limits
    FROM policy
    GROUP BY dataset
),
facts AS (
    SELECT
        p.dataset, p.pair_id, p.relation_class, p.relation_class <> 't2i' AS edits,
        l.limits IS NOT NULL AS has_policy, s.pair_id IS NOT NULL AS scored,
        c.status, s.text_reason, s.ncii_reason,
        -- for each risk
        s.{risk}_max,
        -- end
        j.status AS judge_status,
        -- for each judged score
        j.{score} AS judge_{score},
        coalesce(l.limits['judge_{score}_min@' || p.relation_class], l.limits['judge_{score}_min'])
            AS judge_{score}_limit,
        -- end
        s.exposure_delta, s.clip_t, s.clip_dir,
        s.ssim, s.l1, s.changed_frac, s.change_kept, s.pdq_distance,
        s.largest_blob, s.misalignment, s.sharpness,
        -- for each risk
        least(  -- ignores NULL
            coalesce(l.limits['{risk}_max@' || p.relation_class], l.limits['{risk}_max']),
            CASE WHEN s.unmatchable THEN l.limits['{risk}_max_unmatchable'] END
        ) AS {risk}_limit,
        -- end
        coalesce(l.limits['exposure_delta_max@' || p.relation_class], l.limits['exposure_delta_max'])
            AS exposure_delta_limit,
        coalesce(l.limits['clip_t_min@' || p.relation_class], l.limits['clip_t_min'])
            AS clip_t_limit,
        coalesce(l.limits['clip_dir_min@' || p.relation_class], l.limits['clip_dir_min'])
            AS clip_dir_limit,
        coalesce(l.limits['ssim_max@' || p.relation_class], l.limits['ssim_max']) AS ssim_limit,
        coalesce(l.limits['l1_min@' || p.relation_class], l.limits['l1_min']) AS l1_limit,
        coalesce(l.limits['changed_frac_min@' || p.relation_class], l.limits['changed_frac_min'])
            AS changed_frac_limit,
        coalesce(l.limits['largest_blob_min@' || p.relation_class], l.limits['largest_blob_min'])
            AS largest_blob_limit,
        coalesce(l.limits['misalignment_max@' || p.relation_class], l.limits['misalignment_max'])
            AS misalignment_limit,
        coalesce(l.limits['sharpness_min@' || p.relation_class], l.limits['sharpness_min'])
            AS sharpness_limit,
        coalesce(
            l.limits['change_kept_min@' || p.relation_class], l.limits['change_kept_min'], 0.95::FLOAT
        ) AS change_kept_limit,
        coalesce(l.limits['pdq_distance_min@' || p.relation_class], l.limits['pdq_distance_min'])
            AS pdq_distance_limit
    FROM pairs p
    LEFT JOIN captions c ON c.dataset = p.dataset AND c.pair_id = p.pair_id
    LEFT JOIN judgements j ON j.dataset = p.dataset AND j.pair_id = p.pair_id
    LEFT JOIN pair_scores s ON s.dataset = p.dataset AND s.pair_id = p.pair_id
    LEFT JOIN limits l ON l.dataset = p.dataset
),
judged AS (
    SELECT
        dataset, pair_id,
        list_filter([
            CASE WHEN NOT has_policy THEN 'no_policy' END,
            CASE WHEN NOT scored THEN 'not_scored' END,
            CASE WHEN status IS NULL THEN 'caption_missing'
                 WHEN status <> 'ok' THEN 'caption_' || status END,
            CASE WHEN judge_status <> 'ok' THEN 'judge_' || judge_status END,
            -- for each judged score
            CASE WHEN judge_{score} < judge_{score}_limit OR isnan(judge_{score})
                   OR (edits AND status = 'ok' AND coalesce(judge_status, 'ok') = 'ok'
                       AND judge_{score} IS NULL AND judge_{score}_limit IS NOT NULL)
                 THEN 'judge_{score}_min' END,
            -- end
            CASE WHEN text_reason <> '' THEN 'text:' || text_reason END,
            CASE WHEN ncii_reason <> '' THEN 'ncii:' || ncii_reason END,
            -- Every rule asks for the range of its score: NaN compares as the largest number, and
            -- -1 and -infinity are below every limit. Cosines have room for rounding.
            -- for each risk
            CASE WHEN scored AND has_policy AND CASE
                     -- a risk that the policy does not weigh has the score 0
                     WHEN {risk}_limit IS NULL THEN {risk}_max <> 0
                     ELSE {risk}_max IS NULL OR NOT ({risk}_max BETWEEN 0 AND {risk}_limit)
                       OR NOT ({risk}_limit <= 1)
                 END THEN '{risk}_max' END,
            -- end
            CASE WHEN scored AND (exposure_delta IS NULL OR NOT (exposure_delta BETWEEN -1 AND 1)
                   OR exposure_delta > exposure_delta_limit OR NOT (exposure_delta_limit <= 1))
                 THEN 'exposure_delta_max' END,
            CASE WHEN NOT (clip_t BETWEEN -2 AND 2) OR clip_t < clip_t_limit THEN 'clip_t_min' END,
            CASE WHEN edits AND (NOT (clip_dir BETWEEN -2 AND 2) OR clip_dir < clip_dir_limit)
                 THEN 'clip_dir_min' END,
            CASE WHEN edits AND (NOT (ssim BETWEEN -2 AND 2) OR ssim > ssim_limit)
                 THEN 'ssim_max' END,
            CASE WHEN edits AND (NOT (l1 BETWEEN 0 AND 1) OR l1 < l1_limit) THEN 'l1_min' END,
            CASE WHEN edits AND (NOT (changed_frac BETWEEN 0 AND 1)
                   OR changed_frac < changed_frac_limit) THEN 'changed_frac_min' END,
            CASE WHEN edits AND (NOT (largest_blob BETWEEN 0 AND 1)
                   OR largest_blob < largest_blob_limit) THEN 'largest_blob_min' END,
            -- NULL: nothing to tell it by; its status says why
            CASE WHEN edits AND (NOT (misalignment BETWEEN 0 AND 100)
                   OR misalignment > misalignment_limit) THEN 'misalignment_max' END,
            CASE WHEN edits AND (NOT (sharpness BETWEEN -20 AND 20) OR sharpness < sharpness_limit)
                 THEN 'sharpness_min' END,
            CASE WHEN edits AND (NOT (change_kept BETWEEN 0 AND 1)
                   OR change_kept < change_kept_limit) THEN 'edit_cropped' END,
            CASE WHEN edits AND pdq_distance < pdq_distance_limit THEN 'pdq_distance_min' END
        ], lambda reason: reason IS NOT NULL) AS reject_reasons
    FROM facts
)
SELECT dataset, pair_id, len(reject_reasons) = 0 AS accept, reject_reasons
FROM judged

-- Partitions of an outbox by time, called leaves:
--
--   tide.outbox_<id>_<yyyymmddhh24>   one period each, UTC; the first leaf
--                                     begins at MINVALUE
--   tide.outbox_<id>_past             in its place once it was dropped
--   ... the last of them may be wider, so that they reach three days ahead
--   tide.outbox_<id>_rest             from there to MAXVALUE
--
-- Every instant has a leaf, so no publish fails for want of one. There is no
-- default partition: attaching beside one would have to lock it.

-- Largest period that is at most a quarter of the retention.
CREATE OR REPLACE FUNCTION tide._partition_period(p_retention interval)
RETURNS interval
LANGUAGE sql IMMUTABLE STRICT AS $$
    SELECT coalesce(max(p.period), interval '1 hour')
      FROM unnest(ARRAY['1 hour', '3 hours', '6 hours', '12 hours', '24 hours', '168 hours']::interval[]) AS p(period)
     WHERE p.period <= p_retention / 4
$$;

CREATE OR REPLACE FUNCTION tide._leaves(p_outbox tide.outbox)
RETURNS TABLE (leaf name, relid oid, lower_bound timestamptz, upper_bound timestamptz)
LANGUAGE sql STABLE
SET timezone = 'UTC' SET datestyle = 'ISO' AS $$
    SELECT c.relname, c.oid,
           coalesce((regexp_match(b.bound, 'FROM \(''([^'']+)''\)'))[1]::timestamptz, '-infinity'),
           coalesce((regexp_match(b.bound, 'TO \(''([^'']+)''\)'))[1]::timestamptz, 'infinity')
      FROM pg_catalog.pg_class parent
      JOIN pg_catalog.pg_inherits i ON i.inhparent = parent.oid
      JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
      CROSS JOIN LATERAL (SELECT pg_catalog.pg_get_expr(c.relpartbound, c.oid) AS bound) b
     WHERE parent.relname = p_outbox.table_name
       AND parent.relnamespace = 'tide'::regnamespace
     ORDER BY 3
$$;

-- The leaves to make from p_from on: four periods beyond the current one, a
-- wide one up to three days ahead when four periods end earlier, and the rest.
CREATE OR REPLACE FUNCTION tide._wanted_leaves(p_outbox tide.outbox, p_from timestamptz, p_now timestamptz)
RETURNS TABLE (leaf text, lower_bound timestamptz, upper_bound timestamptz)
LANGUAGE plpgsql STABLE
SET timezone = 'UTC' AS $$
DECLARE
    v_period  interval := p_outbox.partition_period;
    v_current timestamptz := date_bin(v_period, p_now, '2001-01-01 00:00:00+00');
    v_near    timestamptz := v_current + v_period * 5;
    v_far     timestamptz := v_current + v_period + interval '72 hours';
BEGIN
    lower_bound := p_from;
    WHILE lower_bound < v_near LOOP
        upper_bound := CASE WHEN lower_bound <= v_current THEN v_current + v_period
                            ELSE lower_bound + v_period END;
        leaf := format('outbox_%s_%s', p_outbox.outbox_id,
                       to_char(CASE WHEN isfinite(lower_bound) THEN lower_bound ELSE v_current END, 'YYYYMMDDHH24'));
        RETURN NEXT;
        lower_bound := upper_bound;
    END LOOP;
    IF lower_bound < v_far THEN
        leaf := format('outbox_%s_%s', p_outbox.outbox_id, to_char(lower_bound, 'YYYYMMDDHH24'));
        upper_bound := v_far;
        RETURN NEXT;
        lower_bound := upper_bound;
    END IF;
    leaf := format('outbox_%s_rest', p_outbox.outbox_id);
    upper_bound := 'infinity';
    RETURN NEXT;
END $$;

-- A table that is ready to be attached, its indexes included, so that the
-- outbox is locked for the attachment only.
CREATE OR REPLACE FUNCTION tide._create_leaf(p_leaf text)
RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    EXECUTE format('CREATE TABLE tide.%I (LIKE tide.outbox_message INCLUDING DEFAULTS INCLUDING CONSTRAINTS)', p_leaf);
    EXECUTE format('CREATE INDEX ON tide.%I (id)', p_leaf);
    EXECUTE format('CREATE INDEX ON tide.%I (xid)', p_leaf);
END $$;

CREATE OR REPLACE FUNCTION tide._attach_leaf(p_outbox tide.outbox, p_leaf text, p_lower timestamptz, p_upper timestamptz)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET timezone = 'UTC' SET datestyle = 'ISO' AS $$
BEGIN
    EXECUTE format('ALTER TABLE tide.%I ATTACH PARTITION tide.%I FOR VALUES FROM (%s) TO (%s)',
                   p_outbox.table_name, p_leaf,
                   CASE WHEN isfinite(p_lower) THEN quote_literal(p_lower) ELSE 'MINVALUE' END,
                   CASE WHEN isfinite(p_upper) THEN quote_literal(p_upper) ELSE 'MAXVALUE' END);
END $$;

-- Has a leaf for this range: the one of that name when there is one that is not
-- attached and whose messages fit, or else a new one, under another name if
-- that one is taken.
CREATE OR REPLACE FUNCTION tide._cover(p_outbox tide.outbox, p_leaf text, p_lower timestamptz, p_upper timestamptz)
RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_leaf text := p_leaf;
BEGIN
    WHILE to_regclass(format('tide.%I', v_leaf)) IS NOT NULL LOOP
        IF NOT (SELECT c.relispartition FROM pg_catalog.pg_class c WHERE c.oid = to_regclass(format('tide.%I', v_leaf))) THEN
            BEGIN
                PERFORM tide._attach_leaf(p_outbox, v_leaf, p_lower, p_upper);
                RETURN;
            EXCEPTION WHEN check_violation THEN
                NULL;
            END;
        END IF;
        v_leaf := v_leaf || '_';
    END LOOP;
    PERFORM tide._create_leaf(v_leaf);
    PERFORM tide._attach_leaf(p_outbox, v_leaf, p_lower, p_upper);
END $$;

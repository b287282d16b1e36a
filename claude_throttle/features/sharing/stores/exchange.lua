-- What one transaction does. transaction.py does the same to the last digit, in the same order of
-- operations; a test runs random histories through both. Change one, change the other.
--
-- KEYS: the lane's hash, the account's. ARGV: the numbers of the request (redis_format.py says
-- which), member, facts, notice, info, then the fields of the lane's hash: "at:", "interval:" and
-- "taken:" of each bucket, "total:" of each count. Numbers travel as packed doubles, and are kept
-- with all their digits.

local NEVER, SLACK, ROUNDING = -1e18, 5000, 1
local MINUTE, HOUR, DAY, LONGEST = 60e6, 3600e6, 86400e6, 1e14
local FIXED, HEAD, EACH = 5, 15, 10  -- fields of a lane, numbers of a request, numbers of a bucket
local max, min, floor = math.max, math.min, math.floor

local function kept(number)
    return string.format('%.17g', number)
end

local time = redis.call('TIME')
local now = time[1] * 1e6 + time[2]
local n = {struct.unpack('<' .. string.rep('d', #ARGV[1] / 8), ARGV[1])}
if now > n[1] then
    return struct.pack('<dd', now, 0)
end
local bucket_count, reservation_count, count_count = n[2], n[3], n[4]
local horizon, reserved_at, pause, version_seen = n[5], n[6], n[7], n[8]
local has_facts, has_notice, has_claim = n[9] == 1, n[10] == 1, n[11] == 1
local in_use, want, limit, lease = n[12], n[13], n[14], n[15]
local counts_from = HEAD + bucket_count * EACH
local reservations_from = counts_from + count_count

-- All is read before anything is written: what fails on the way must leave nothing half done.

local lane = redis.call(
    'HMGET', KEYS[1], 'sequence', 'pause_until', 'version', 'facts', 'kept_until', unpack(ARGV, 6)
)
local sequence = tonumber(lane[1] or 0)
local pause_until = tonumber(lane[2] or NEVER)
local version = tonumber(lane[3] or 0)
local facts = lane[4] or ''
local kept_until = tonumber(lane[5] or NEVER)

local notice, others, gone = '', {}, {}
if has_claim then
    local own = 'member:' .. ARGV[2]
    local account = redis.call('HGETALL', KEYS[2])
    for i = 1, #account, 2 do
        local field, value = account[i], account[i + 1]
        if field == 'notice' then
            notice = value
        else
            local slots, wanted, till = string.match(value, '^(%S+) (%S+) (%S+)')
            if tonumber(till) <= now then
                if #gone < 1000 then  -- the others next time: a call takes only so many arguments
                    gone[#gone + 1] = field
                end
            elseif field ~= own then
                others[#others + 1] = {tonumber(slots), tonumber(wanted)}
            end
        end
    end
else
    notice = redis.call('HGET', KEYS[2], 'notice') or ''
end

local intervals, bursts, keeps, margins, strict = {}, {}, {}, {}, {}
local instants, taken = {}, {}
local set = {}

local function keep(field, value)
    set[#set + 1] = field
    set[#set + 1] = value
end

local function take(empty_at, interval, burst, units, at)
    local full_at = at - burst * interval - ROUNDING
    if empty_at < full_at - SLACK then
        empty_at = full_at
    end
    return empty_at + units * interval
end

local gives_back = reserved_at == sequence
local corrects = has_facts and version_seen == version
local ttl = HOUR
for i = 1, bucket_count do
    local from = HEAD + (i - 1) * EACH
    local interval, burst = n[from + 1], n[from + 2]
    local shift, spent, correction, returned = n[from + 4], n[from + 5], n[from + 6], n[from + 7]
    intervals[i], bursts[i] = interval, burst
    keeps[i], margins[i], strict[i] = n[from + 8], n[from + 9], n[from + 10] == 1
    local empty_at, before = lane[FIXED + i], tonumber(lane[FIXED + bucket_count + i] or 0)
    if empty_at then
        empty_at = tonumber(empty_at)
        if before ~= interval then
            empty_at = max(empty_at, now - burst * before)
            empty_at = now - (now - empty_at) / before * interval
        end
    else
        empty_at = n[from + 3]
    end
    if before ~= interval then
        keep(ARGV[5 + bucket_count + i], kept(interval))
    end
    empty_at = empty_at + shift
    local units = tonumber(lane[FIXED + 2 * bucket_count + i] or 0) + shift / interval
    if corrects then
        empty_at = empty_at + correction
    end
    if returned > 0 then
        units = units - returned
        if gives_back or not strict[i] or burst >= 2 then
            empty_at = empty_at - returned * interval
        end
    end
    if spent > 0 then
        units = units + spent
        empty_at = max(empty_at, now)
    end
    instants[i], taken[i] = empty_at, units
    ttl = max(ttl, 2 * interval * max(1, burst))
end
if corrects then
    facts, version = ARGV[3], version + 1
    keep('facts', facts)
    keep('version', kept(version))
end

if pause > 0 then
    pause_until = max(pause_until, now + pause)
    keep('pause_until', kept(pause_until))
    for i = 1, bucket_count do
        if strict[i] then
            instants[i] = max(instants[i], pause_until - min(bursts[i], 1) * intervals[i])
        end
    end
end

local waits = {}
local at = max(now, pause_until)
local first = at
for index = 1, reservation_count do
    local from = reservations_from + (index - 1) * bucket_count
    for i = 1, bucket_count do
        local cost = n[from + i]
        if cost > 0 then
            local units = min(cost + keeps[i], bursts[i])
            at = max(at, instants[i] + units * intervals[i] + margins[i])
        end
    end
    if index == 1 then
        first = at
    elseif at > first + horizon then
        break
    end
    for i = 1, bucket_count do
        local cost = n[from + i]
        if cost > 0 then
            instants[i] = take(instants[i], intervals[i], bursts[i], cost, at)
            taken[i] = taken[i] + cost
        end
    end
    waits[index] = at - now
end
if #waits > 0 then
    sequence = sequence + 1
    keep('sequence', kept(sequence))
end

for i = 1, bucket_count do
    keep(ARGV[5 + i], kept(instants[i]))
    keep(ARGV[5 + 2 * bucket_count + i], kept(taken[i]))
    ttl = max(ttl, instants[i] - now + HOUR)
end
ttl = max(ttl, pause_until - now + HOUR)
local totals = {}
for i = 1, count_count do
    totals[i] = tonumber(lane[FIXED + 3 * bucket_count + i] or 0) + n[counts_from + i]
    keep(ARGV[5 + 3 * bucket_count + i], kept(totals[i]))
end
-- At most once a minute, and never to an earlier instant.
local prolonged = now + ttl > kept_until
if prolonged then
    ttl = min(ttl, LONGEST) + MINUTE
    keep('kept_until', kept(now + ttl))
end

local granted, members, in_flight = 0, 0, 0
if has_claim then
    local waiting, wanting = false, 1
    for i = 1, #others do
        local slots, wanted = others[i][1], others[i][2]
        in_flight = in_flight + slots
        waiting = waiting or wanted > slots
        wanting = wanting + (wanted > 0 and 1 or 0)
    end
    granted = want
    if limit > 0 then
        granted = min(want, limit - in_flight)
        if waiting then
            local share = floor(limit / wanting)
            if share < 1 then
                granted = min(granted, 1)
            else
                local due = 0
                for i = 1, #others do
                    due = due + max(others[i][1], min(others[i][2], share))
                end
                granted = min(granted, limit - due)
            end
        end
        granted = floor(max(0, granted))
    end
    local slots = max(granted, in_use)
    members, in_flight = #others + 1, in_flight + slots
end

if #set > 0 then
    redis.call('HSET', KEYS[1], unpack(set))
end
if prolonged then
    redis.call('PEXPIRE', KEYS[1], string.format('%.0f', ttl / 1000))
end
if has_notice then
    notice = ARGV[4]
    if notice == '' then
        redis.call('HDEL', KEYS[2], 'notice')
    else
        redis.call('HSET', KEYS[2], 'notice', notice)
    end
end
if has_claim then
    if #gone > 0 then
        redis.call('HDEL', KEYS[2], unpack(gone))
    end
    local held = string.format('%.17g %.17g %.17g %s', max(granted, in_use), want, now + lease, ARGV[5])
    redis.call('HSET', KEYS[2], 'member:' .. ARGV[2], held)
end
if has_claim or has_notice then
    local long = max(notice == '' and HOUR or DAY, 2 * lease)
    redis.call('PEXPIRE', KEYS[2], string.format('%.0f', long / 1000))
end

local out = {
    now, 1, sequence, pause_until, version, granted, members, in_flight, #waits, #facts,
    unpack(instants)
}
for i = 1, bucket_count do
    out[#out + 1] = taken[i]
end
for i = 1, #totals do
    out[#out + 1] = totals[i]
end
for i = 1, #waits do
    out[#out + 1] = waits[i]
end
return struct.pack('<' .. string.rep('d', #out), unpack(out)) .. facts .. notice

-- Takes jobs of one model from its queues into leases of this worker, all in one step.
-- KEYS: for each model its two queues, that of the preferred lane first.
-- ARGV: token (of this claim), lease (seconds), room (jobs) of either lane, as in KEYS, '1' if the worker holds nothing, '1' if an earlier claim
-- with this token may have succeeded though its answer was lost, worker's name, now as RQ writes times (for the record
-- only), the bell, what is rung there if no job is found ('': nothing).
-- Returns whether jobs wait that were not taken (1 or 0), and for each that was {queue, id, leases lost, its data}.
-- Whatever is written first frees memory, so that a full server still drains.

local token, lease, room = ARGV[1], tonumber(ARGV[2]), {tonumber(ARGV[3]), tonumber(ARGV[4])}
local idle, again = ARGV[5] == '1', ARGV[6] == '1'

if redis.call('EXISTS', 'rq:suspended') == 1 then
  return {0, {}}
end

local function wip(key)
  return 'rq:wip:' .. string.sub(key, 10) -- without rq:queue:
end

if again then -- what nobody was told of goes back
  for _, key in ipairs(KEYS) do
    for _, member in ipairs(redis.call('ZREVRANGE', wip(key), 0, -1)) do
      local id, by = string.match(member, '^([^:]+):(.+)$')
      if by == token and redis.call('HGET', 'rq:job:' .. id, 'status') == 'started' then
        redis.call('ZREM', wip(key), member)
        redis.call('HSET', 'rq:job:' .. id, 'status', 'queued', 'started_at', '')
        redis.call('LPUSH', key, id)
      end
    end
  end
end

-- The id at the front and how often it was lost. What does not wait (a duplicate, canceled, no id of RQ's) is dropped.
local function head(key)
  while true do
    local id = redis.call('LINDEX', key, 0)
    if not id then
      return nil
    end
    local status, lost = unpack(redis.call('HMGET', 'rq:job:' .. id, 'status', 'lost'))
    if status == 'queued' and not string.find(id, '[^%w_-]') then
      return id, tonumber(lost or '0')
    end
    redis.call('LPOP', key)
  end
end

-- The oldest head of the preferred lane, else of the other, where there is room: ids sort by time.
local chosen, oldest
for lane = 1, 2 do
  for i = lane, room[lane] > 0 and #KEYS or 0, 2 do
    local id = head(KEYS[i])
    if id and (not oldest or id < oldest) then
      chosen, oldest = i, id
    end
  end
  if chosen then
    break
  end
end
if not chosen then
  if ARGV[10] ~= '' then -- a job of another worker's models may have come; only a hint, so a full server may refuse it
    redis.pcall('RPUSH', ARGV[9], ARGV[10])
    redis.pcall('LTRIM', ARGV[9], -8, -1)
  end
  return {redis.call('EXISTS', unpack(KEYS)) > 0 and 1 or 0, {}}
end

local time = redis.call('TIME')
local deadline = string.format('%.3f', time[1] + time[2] / 1e6 + lease)
local partner = chosen % 2 == 1 and chosen + 1 or chosen - 1
local taken = {}
for _, i in ipairs({chosen, partner}) do
  local key = KEYS[i]
  while #taken < room[2 - i % 2] do
    local id, lost = head(key)
    if not id then
      break
    end
    if lost > 0 and not (idle and #taken == 0) then
      return {1, taken} -- a suspect waits, at the front, for a worker that holds nothing else
    end
    redis.call('LPOP', key)
    redis.call('ZADD', wip(key), deadline, id .. ':' .. token)
    redis.call('HSET', 'rq:job:' .. id, 'status', 'started', 'worker_name', ARGV[7],
      'started_at', ARGV[8], 'last_heartbeat', ARGV[8])
    taken[#taken + 1] = {key, id, lost, redis.call('HGET', 'rq:job:' .. id, 'data')}
    if lost > 0 then
      return {1, taken}
    end
  end
end
return {redis.call('EXISTS', unpack(KEYS)) > 0 and 1 or 0, taken}

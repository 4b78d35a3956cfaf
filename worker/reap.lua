-- One beat of a worker: it renews its leases, then returns jobs of lost workers to the front of their queues and cleans
-- up after RQ; after settle.lua and finish.lua.
-- ARGV: how our queues' names begin, lease (seconds), server's time of this worker's last beat (0: none), server's time
-- before which not to reap, leases that a job may lose, seconds for which ended jobs are kept, now as RQ writes times
-- (for the record only), what a Result says of a job that lost too many workers, the bell; then the worker's own
-- leases: queue, id, token of each.
-- Returns {server's time, for each own lease 1 if it still holds, else 0}.
-- Whatever is written first frees memory, so that a full server still drains.

local ours, lease, last, from = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local max_lost, kept, ended_at, why, bell = tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7], ARGV[8], ARGV[9]
local time = redis.call('TIME')
local now = time[1] + time[2] / 1e6

local answer = {string.format('%.6f', now)}
for i = 10, #ARGV, 3 do
  local queue, id, token = unpack(ARGV, i, i + 2)
  local wip, member = 'rq:wip:' .. queue, id .. ':' .. token
  local held = redis.call('ZREM', wip, member) == 1
  held = held and redis.call('HGET', 'rq:job:' .. id, 'status') == 'started'
  if held then
    redis.call('ZADD', wip, string.format('%.3f', now + lease), member)
  end
  answer[#answer + 1] = held and 1 or 0
end

-- After a gap every lease looks lost: first let all workers renew. This holds too when the command itself was long on
-- its way.
if (last > 0 and now - last > lease / 2) or now < from then
  return answer
end

local function reap(queue)
  local back = {}
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', 'rq:wip:' .. queue, '-inf', now, 'LIMIT', 0, 500)) do
    local id = string.match(member, '^[^:]+')
    local job = 'rq:job:' .. id
    redis.call('ZREM', 'rq:wip:' .. queue, member)
    if redis.call('HGET', job, 'status') == 'started' then
      if redis.call('HINCRBY', job, 'lost', 1) > max_lost then
        finish(queue, id, 'failed', ended_at, kept, {'type', 2, 'worker_name', '', 'exc_string', why})
      else
        redis.call('HSET', job, 'status', 'queued', 'started_at', '', 'worker_name', '')
        back[#back + 1] = id
      end
    end
  end
  table.sort(back, function(one, other) return one > other end) -- so that the oldest ends at the front
  for _, id in ipairs(back) do
    redis.call('LPUSH', 'rq:queue:' .. queue, id)
    redis.call('RPUSH', bell, 1)
  end
  if #back > 0 then
    redis.call('LTRIM', bell, -8, -1)
  end
end

local expired = {} -- records of workers that ended without a word
for _, worker in ipairs(redis.call('SMEMBERS', 'rq:workers')) do
  if redis.call('EXISTS', worker) == 0 then
    redis.call('SREM', 'rq:workers', worker)
    expired[#expired + 1] = worker
  end
end

local busy = false
for _, key in ipairs(redis.call('SMEMBERS', 'rq:queues')) do
  local queue = string.sub(key, 10) -- without rq:queue:
  if string.sub(queue, 1, #ours) == ours then
    reap(queue)
    for _, registry in ipairs({'finished', 'failed', 'canceled'}) do
      redis.call('ZREMRANGEBYSCORE', 'rq:' .. registry .. ':' .. queue, '-inf', now)
    end
    for _, worker in ipairs(expired) do
      redis.call('SREM', 'rq:workers:' .. queue, worker)
    end
  end
  if string.find(queue, '^v%d+%.') and redis.call('LLEN', key) + redis.call('ZCARD', 'rq:wip:' .. queue) > 0 then
    busy = true
  end
end
if not busy then
  redis.call('DEL', LOAD) -- nothing is unfinished: what is still counted has drifted
end
return answer

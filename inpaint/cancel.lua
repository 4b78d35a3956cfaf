-- Ends a job that has not ended yet; after settle.lua. ARGV: id, now as RQ writes times, '1' to spare it once it runs.
-- Returns what RQ called the job: 'queued' and 'started' are canceled now, any other stays; nothing if there is no such job.
-- The first write frees memory, so that a full server still cancels.

local id = ARGV[1]
local key = 'rq:job:' .. id
local status, queue, kept = unpack(redis.call('HMGET', key, 'status', 'origin', 'result_ttl'))

if status == 'queued' then
  redis.call('LREM', 'rq:queue:' .. queue, 1, id)
elseif status == 'started' and ARGV[3] ~= '1' then -- what is done of it can no longer be committed
  for _, execution in ipairs(redis.call('ZRANGE', 'rq:wip:' .. queue, 0, -1)) do
    if string.sub(execution, 1, #id + 1) == id .. ':' then
      redis.call('ZREM', 'rq:wip:' .. queue, execution)
    end
  end
else
  return status
end

local now = tonumber(redis.call('TIME')[1])
redis.call('ZADD', 'rq:canceled:' .. queue, now + tonumber(kept), id)
redis.call('HSET', key, 'status', 'canceled', 'ended_at', ARGV[2])
redis.call('EXPIRE', key, kept)
settle(id)
return status

-- Puts a job into its queue, or says why not; after settle.lua. All or nothing: what is refused leaves no trace.
-- ARGV: id, lane, share, bytes, reply; the limits of a lane, of all bytes and of a client (0: no such limit);
-- the bell; the number of its album's item ('': of none); RQ's own writes, a JSON array of the words of each.
-- Returns {'accepted' | 'known' | 'queue-full' | 'rate-limited', unfinished jobs of the lane}.

local id, lane, share, bytes, reply = unpack(ARGV, 1, 5)
local lane_limit, bytes_limit, client_limit = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local key = 'rq:job:' .. id

local counts = redis.call('HMGET', LOAD, lane, share, 'bytes')
local unfinished = tonumber(counts[1] or '0')
if redis.call('EXISTS', key) == 1 then
  return {'known', unfinished} -- a command that was sent again after its answer was lost
end
if client_limit > 0 and tonumber(counts[2] or '0') >= client_limit then
  return {'rate-limited', unfinished}
end
if unfinished >= lane_limit or tonumber(counts[3] or '0') + tonumber(bytes) > bytes_limit then
  return {'queue-full', unfinished}
end

for _, words in ipairs(cjson.decode(ARGV[11])) do
  redis.call(unpack(words))
end
redis.call('HSET', key, 'lane', lane, 'share', share, 'bytes', bytes, 'reply', reply)
if ARGV[10] ~= '' then
  redis.call('HSET', key, 'item', ARGV[10])
end
count(lane, 1)
count(share, 1)
count('bytes', tonumber(bytes))
redis.call('RPUSH', ARGV[9], 1)
redis.call('LTRIM', ARGV[9], -8, -1)
return {'accepted', unfinished + 1}

/** A real OAuth2 server for client credentials: JWT access tokens that live for moments, and keys that change. */

import { createServer } from 'node:http';
import { exportJWK, generateKeyPair } from 'jose';
import { Provider, errors } from 'oidc-provider';

const { PORT, AUDIENCE, CLIENTS, TOKEN_LIFE_S } = process.env;
process.stdin.resume().on('end', () => process.exit()); // with the tests, however they end
const issuer = `http://127.0.0.1:${PORT}`;

const grant = { grant_types: ['client_credentials'], redirect_uris: [], response_types: [], scope: 'read write' };
let provider;

/** From now on there is one new key, and the old one is gone: what it signed can no longer be checked. */
async function rotate() {
  const { privateKey } = await generateKeyPair('RS256', { extractable: true });
  const kid = crypto.randomUUID();
  provider = new Provider(issuer, {
    clients: JSON.parse(CLIENTS).map((client) => ({ ...grant, ...client })),
    jwks: { keys: [{ ...(await exportJWK(privateKey)), kid, use: 'sig', alg: 'RS256' }] },
    scopes: ['read', 'write'],
    // as Ory has them
    routes: { token: '/oauth2/token', jwks: '/.well-known/jwks.json' },
    features: {
      devInteractions: { enabled: false },
      clientCredentials: { enabled: true },
      resourceIndicators: {
        enabled: true,
        // RFC 8707 calls it `resource`; the daemon says `audience`, as Ory and Auth0 do.
        defaultResource: (ctx) => ctx.oidc.body.audience,
        getResourceServerInfo: (_ctx, resource) => {
          if (resource !== AUDIENCE) throw new errors.InvalidTarget();
          return {
            scope: 'read write',
            audience: resource,
            accessTokenFormat: 'jwt',
            accessTokenTTL: Number(TOKEN_LIFE_S),
            jwt: { sign: { alg: 'RS256' } },
          };
        },
      },
    },
  });
  return kid;
}

await rotate();
createServer(async (request, response) => {
  if (request.url !== '/testing/rotate') return provider.callback()(request, response);
  response.end(JSON.stringify({ kid: await rotate() }));
}).listen(Number(PORT), '127.0.0.1');

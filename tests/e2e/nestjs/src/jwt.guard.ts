import { type CanActivate, type ExecutionContext, Injectable, UnauthorizedException } from '@nestjs/common';
import { createRemoteJWKSet, errors, jwtVerify } from 'jose';

/**
 * Access tokens of the OAuth2 server, checked with its public keys. A token of a key that is not known yet makes
 * `jose` fetch the keys again, but not sooner than `cooldownDuration` after the last time: until then such tokens
 * get a 401.
 */
@Injectable()
export class JwtGuard implements CanActivate {
  private readonly keys = createRemoteJWKSet(new URL(required('JWKS_URL')), { cooldownDuration: 1000 });
  private readonly expected = { issuer: required('ISSUER'), audience: required('AUDIENCE') };

  async canActivate(context: ExecutionContext): Promise<boolean> {
    const { authorization = '' } = context.switchToHttp().getRequest().headers;
    try {
      await jwtVerify(authorization.replace(/^Bearer /i, ''), this.keys, this.expected);
    } catch (error) {
      // Anything else says nothing about the token: the keys cannot be had.
      throw error instanceof errors.JOSEError ? new UnauthorizedException() : error;
    }
    return true;
  }
}

function required(name: string): string {
  const value = process.env[name];
  if (!value) throw new Error(`${name} is not set`);
  return value;
}
